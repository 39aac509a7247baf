//! What users write and read: the nine kinds of `tenure.dev/v1alpha1`, their rules, and the words of their conditions.
//!
//! Doc comments here are what `kubectl explain` prints.

// Why: two columns of one type are no duplicate; and `kubectl explain` shows backticks as they are.
#![allow(clippy::duplicated_attributes, clippy::doc_markdown)]

pub mod account;
pub mod card_type;
pub mod condition;
pub mod crds;
pub mod endpoint;
pub mod group;
pub mod market;
pub mod names;
pub mod payment;
pub mod pool;
pub mod rules;
pub mod spot;
pub mod tariff;
pub mod template;
pub mod term;

pub use account::{Account, AccountSpec, AccountStatus};
pub use card_type::{CardType, CardTypeSpec, CardTypeStatus};
pub use endpoint::{ServerlessEndpoint, ServerlessEndpointSpec, ServerlessEndpointStatus};
pub use group::{DedicatedGroup, DedicatedGroupSpec, DedicatedGroupStatus};
pub use market::{SpotMarket, SpotMarketSpec, SpotMarketStatus};
pub use payment::{Payment, PaymentSpec, PaymentStatus};
pub use pool::{ResidentPool, ResidentPoolSpec, ResidentPoolStatus};
pub use spot::{SpotServer, SpotServerSpec, SpotServerStatus};
pub use tariff::{Tariff, TariffSpec, TariffStatus};

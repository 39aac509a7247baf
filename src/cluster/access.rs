//! Who has a token, and what that user may do: asked of the API server. And who leads.

use std::collections::BTreeMap;

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::api::PostParams;

use super::Cluster;
use crate::api::names;

/// A user, as the API server knows him.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Caller {
    /// His name.
    pub user: String,
    uid: Option<String>,
    groups: Vec<String>,
    extra: BTreeMap<String, Vec<String>>,
}

/// What somebody wants to do, in the words of RBAC. All of it is of the group tenure.dev.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Deed {
    /// `get`, `create`.
    pub verb: &'static str,
    /// Such as `accounts`.
    pub resource: &'static str,
    /// Such as `bill`; empty: the resource itself.
    pub subresource: &'static str,
    /// Empty: it has none.
    pub namespace: String,
    /// Empty: all of them.
    pub name: String,
}

impl std::fmt::Display for Deed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.verb, self.resource)?;
        if !self.subresource.is_empty() {
            write!(f, "/{}", self.subresource)?;
        }
        write!(f, " of API group tenure.dev")?;
        match (self.name.as_str(), self.namespace.as_str()) {
            ("", "") => write!(f, ", all of them"),
            (name, "") => write!(f, ", {name}"),
            (_, namespace) => write!(f, " in namespace {namespace}"),
        }
    }
}

impl Cluster {
    /// Whose token this is. One that is made for `audience` is good for nothing else; others are good if they are for the API server.
    pub async fn who(&self, token: &str, audience: &str) -> kube::Result<Option<Caller>> {
        for audiences in [Some(vec![audience.to_owned()]), None] {
            let wanted = audiences.clone();
            let spec = TokenReviewSpec { token: token.to_owned(), audiences };
            let review = TokenReview { spec, ..TokenReview::default() };
            let api = Api::<TokenReview>::all(self.client.clone());
            let status = api.create(&PostParams::default(), &review).await?.status.unwrap_or_default();
            // An authenticator that knows no audiences says none, and has then looked at nothing but its own.
            let is_for_us = match &wanted {
                None => true,
                Some(wanted) => status.audiences.iter().flatten().any(|it| wanted.contains(it)),
            };
            if status.authenticated == Some(true) && is_for_us {
                let user = status.user.unwrap_or_default();
                return Ok(Some(Caller {
                    user: user.username.unwrap_or_default(),
                    uid: user.uid,
                    groups: user.groups.unwrap_or_default(),
                    extra: user.extra.unwrap_or_default(),
                }));
            }
        }
        Ok(None)
    }

    /// May this user do this?
    pub async fn may(&self, caller: &Caller, deed: &Deed) -> kube::Result<bool> {
        let some = |it: &str| (!it.is_empty()).then(|| it.to_owned());
        let attributes = ResourceAttributes {
            group: Some(names::GROUP_NAME.to_owned()),
            verb: some(deed.verb),
            resource: some(deed.resource),
            subresource: some(deed.subresource),
            namespace: some(&deed.namespace),
            name: some(&deed.name),
            ..ResourceAttributes::default()
        };
        let spec = SubjectAccessReviewSpec {
            user: Some(caller.user.clone()),
            uid: caller.uid.clone(),
            groups: Some(caller.groups.clone()),
            extra: Some(caller.extra.clone()),
            resource_attributes: Some(attributes),
            ..SubjectAccessReviewSpec::default()
        };
        let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
        let api = Api::<SubjectAccessReview>::all(self.client.clone());
        let status = api.create(&PostParams::default(), &review).await?.status;
        Ok(status.is_some_and(|it| it.allowed && it.denied != Some(true)))
    }

    /// Who holds a Lease.
    pub async fn holder(&self, namespace: &str, lease: &str) -> kube::Result<Option<String>> {
        let lease = Api::<Lease>::namespaced(self.client.clone(), namespace).get_opt(lease).await?;
        Ok(lease.and_then(|it| it.spec).and_then(|it| it.holder_identity).filter(|it| !it.is_empty()))
    }
}

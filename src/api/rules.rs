//! Rules that several kinds share, with messages that say what to do.

use kube::core::Rule;

/// An amount of money or a price: a decimal number in a string, so that it is exact.
pub fn amount() -> Rule {
    Rule::new(r"self.matches('^(0|[1-9][0-9]{0,11})([.][0-9]{1,8})?$')")
        .message("must be a decimal number in quotes, not negative, such as \"2.50\" (at most 12 digits before and 8 after the point)")
}

/// An amount above zero.
pub fn positive_amount() -> Rule {
    Rule::new(r"self.matches('^(0|[1-9][0-9]{0,11})([.][0-9]{1,8})?$') && self.matches('[1-9]')")
        .message("must be a decimal number in quotes, above zero, such as \"2.50\" (at most 12 digits before and 8 after the point)")
}

/// A currency.
pub fn currency() -> Rule {
    Rule::new("self.matches('^[A-Z]{3}$')").message("must be an ISO 4217 code of three capital letters, such as CNY")
}

/// A field that can't be changed.
pub fn fixed(message: &'static str) -> Rule {
    Rule::new("self == oldSelf").message(message)
}

/// Names of other objects.
pub fn object_name() -> Rule {
    Rule::new("self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')").message("must be the name of an object: lower-case letters, digits, `-` and `.`")
}

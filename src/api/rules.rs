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
    Rule::new("self.matches('^[A-Z]{3}$')")
        .message("must be an ISO 4217 code of three capital letters, such as CNY")
}

/// A field that can't be changed.
pub fn fixed(message: &'static str) -> Rule {
    Rule::new("self == oldSelf").message(message)
}

/// A text of a spec that can't be changed and may be absent. It stands at the spec: a rule at the field itself sleeps when
/// the field is added or taken away.
pub fn fixed_text(field: &str, message: &'static str) -> Rule {
    Rule::new(format!(
        "(has(self.{field}) ? self.{field} : '') == (has(oldSelf.{field}) ? oldSelf.{field} : '')"
    ))
    .message(message)
    .field_path(format!(".{field}"))
}

/// Names of other objects, of the same namespace if they have one.
pub fn object_name() -> Rule {
    Rule::new("self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')")
        .message("must be the name of an object: lower-case letters, digits, `-` and `.`")
}

/// Names of other objects that may be left empty.
pub fn optional_object_name() -> Rule {
    Rule::new("self.matches('^([a-z0-9]([-a-z0-9.]*[a-z0-9])?)?$')")
        .message("must be the name of an object, or empty: lower-case letters, digits, `-` and `.`")
}

/// A region or zone; a node carries it as the value of a label.
pub fn place() -> Rule {
    Rule::new("self.matches('^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$')")
        .message("must be letters, digits, `-`, `_` and `.`, such as cn-hangzhou, or empty")
}

/// A quantity above zero.
pub fn positive_quantity(example: &str) -> Rule {
    Rule::new("isQuantity(string(self)) && quantity(string(self)).isGreaterThan(quantity('0'))")
        .message(format!("must be a quantity above zero, such as {example}").as_str())
}

//! Amounts: exact within a line of a bill, whole minor units once the line is rounded. The one rounding is here.

use std::fmt;

use num_bigint::BigInt;
use num_rational::BigRational;
use num_traits::{Signed, ToPrimitive, Zero};

/// The longest text that is read as an amount, characters: more digits than any price needs, few enough to be cheap.
const LONGEST_TEXT: usize = 40;

/// Why a text is not an amount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotAnAmount(pub String);

impl fmt::Display for NotAnAmount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}` is not an amount such as 7090, 1.2 or -3.50 with no more digits than the currency has",
            self.0
        )
    }
}

impl std::error::Error for NotAnAmount {}

/// A line of a bill is beyond what can be posted: 2⁶³ minor units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooMuch;

impl fmt::Display for TooMuch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the amount is larger than can be posted")
    }
}

impl std::error::Error for TooMuch {}

/// An exact amount of a currency's major unit: a rational.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Exact(BigRational);

impl Exact {
    /// Reads a plain decimal number: `7090`, `1.2`, `-3.5`. No exponent, no sign but a minus, no spaces, a digit on both sides
    /// of the point, at most 40 characters.
    pub fn parse(text: &str) -> Result<Exact, NotAnAmount> {
        let (digits, decimals) = read_decimal(text)?;
        Ok(Exact(BigRational::new(digits, power_of_ten(decimals))))
    }

    /// Nothing.
    pub fn zero() -> Exact {
        Exact(BigRational::zero())
    }

    /// So many whole units.
    pub fn whole(it: i64) -> Exact {
        Exact(BigRational::from_integer(BigInt::from(it)))
    }

    /// The sum.
    #[must_use]
    pub fn plus(&self, other: &Exact) -> Exact {
        Exact(&self.0 + &other.0)
    }

    /// The difference; it may be negative.
    #[must_use]
    pub fn minus(&self, other: &Exact) -> Exact {
        Exact(&self.0 - &other.0)
    }

    /// So many times as much.
    #[must_use]
    pub fn times(&self, n: u64) -> Exact {
        Exact(&self.0 * BigInt::from(n))
    }

    /// The product with a number that isn't whole, such as a factor of 1.2.
    #[must_use]
    pub fn times_exact(&self, factor: &Exact) -> Exact {
        Exact(&self.0 * &factor.0)
    }

    /// `part` ÷ `of` of it. `of` is above 0.
    #[must_use]
    pub fn share(&self, part: u64, of: u64) -> Exact {
        assert!(of > 0, "a share of nothing");
        Exact(&self.0 * BigRational::new(BigInt::from(part), BigInt::from(of)))
    }

    /// Is it below zero?
    pub fn is_negative(&self) -> bool {
        self.0.is_negative()
    }

    /// Itself, or zero when it is negative.
    #[must_use]
    pub fn at_least_zero(&self) -> Exact {
        if self.is_negative() { Exact::zero() } else { self.clone() }
    }
}

/// A currency of ISO 4217 that has a minor unit (`JPY` has one of 0 digits; gold and test codes have none).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Currency {
    code: &'static str,
    minor_digits: u32,
}

impl Currency {
    /// The currency of a code in capitals, such as `CNY`; `None` when there is none.
    pub fn find(code: &str) -> Option<Currency> {
        let found = iso_currency::Currency::from_code(code)?;
        Some(Currency { code: found.code(), minor_digits: u32::from(found.exponent()?) })
    }

    /// Its code: three capitals.
    pub fn code(&self) -> &'static str {
        self.code
    }

    /// Digits after the point: 2 for `CNY`, 0 for `JPY`, 3 for `KWD`.
    pub fn minor_digits(&self) -> u32 {
        self.minor_digits
    }
}

/// An amount in minor units, as it is posted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Money(pub i64);

impl Money {
    /// The one rounding: to the nearest minor unit, from the middle to the even one. Once per line of a bill: a line is one
    /// order, one refund, one credit, one postpaid machine's hour, or one object's usage at one price on one UTC day.
    pub fn round_line(exact: &Exact, currency: &Currency) -> Result<Money, TooMuch> {
        let minor = &exact.0 * power_of_ten(currency.minor_digits);
        let below = minor.floor().to_integer();
        let twice_the_rest = (minor - &below) * BigInt::from(2);
        let up = match twice_the_rest.cmp(&BigRational::from_integer(BigInt::from(1))) {
            std::cmp::Ordering::Less => false,
            std::cmp::Ordering::Equal => below.bit(0),
            std::cmp::Ordering::Greater => true,
        };
        (below + BigInt::from(u8::from(up))).to_i64().map(Money).ok_or(TooMuch)
    }

    /// As people write it, in the major unit with all digits of the minor one: `42828.00`.
    pub fn text(self, currency: &Currency) -> String {
        let digits = currency.minor_digits as usize;
        let sign = if self.0 < 0 { "-" } else { "" };
        let all = format!("{:0>width$}", self.0.unsigned_abs(), width = digits + 1);
        let (whole, fraction) = all.split_at(all.len() - digits);
        if fraction.is_empty() { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") }
    }

    /// Reads an amount of the major unit, such as `42828` or `42828.00`. Refuses more digits after the point than the
    /// currency has, and what can't be posted.
    pub fn parse(text: &str, currency: &Currency) -> Result<Money, NotAnAmount> {
        let bad = || NotAnAmount(text.to_owned());
        let (digits, decimals) = read_decimal(text)?;
        let missing = currency.minor_digits.checked_sub(decimals).ok_or_else(bad)?;
        (digits * power_of_ten(missing)).to_i64().map(Money).ok_or_else(bad)
    }

    /// The same amount as a rational of the major unit.
    pub fn exact(self, currency: &Currency) -> Exact {
        Exact(BigRational::new(BigInt::from(self.0), power_of_ten(currency.minor_digits)))
    }

    /// The sum, unless it can't be posted.
    pub fn checked_add(self, other: Money) -> Option<Money> {
        self.0.checked_add(other.0).map(Money)
    }

    /// The difference, unless it can't be posted.
    pub fn checked_sub(self, other: Money) -> Option<Money> {
        self.0.checked_sub(other.0).map(Money)
    }
}

/// The digits of a plain decimal number, and how many of them stand after the point.
fn read_decimal(text: &str) -> Result<(BigInt, u32), NotAnAmount> {
    let bad = || NotAnAmount(text.to_owned());
    let all_digits = |it: &str| !it.is_empty() && it.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.strip_prefix('-').unwrap_or(text);
    let (whole, fraction) = match number.split_once('.') {
        Some((whole, fraction)) if all_digits(fraction) => (whole, fraction),
        Some(_) => return Err(bad()),
        None => (number, ""),
    };
    if !all_digits(whole) || text.len() > LONGEST_TEXT {
        return Err(bad());
    }
    let digits: BigInt = format!("{whole}{fraction}").parse().map_err(|_| bad())?;
    let decimals = u32::try_from(fraction.len()).map_err(|_| bad())?;
    Ok((if number.len() < text.len() { -digits } else { digits }, decimals))
}

fn power_of_ten(exponent: u32) -> BigInt {
    BigInt::from(10).pow(exponent)
}

//! Amounts of CPU, memory and disk as Kubernetes writes them, parsed exactly.
//!
//! No floats: a quantity is held in billionths (`nano`) in an `i128`, which holds every value Kubernetes accepts.

use std::fmt;

/// Why a text is not a quantity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotAQuantity(pub String);

impl fmt::Display for NotAQuantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is not a quantity such as 8, 500m or 64Gi", self.0)
    }
}

impl std::error::Error for NotAQuantity {}

const NANO: i128 = 1_000_000_000;

/// Parses a Kubernetes quantity (`8`, `500m`, `1.5Gi`, `2E3`) into billionths.
///
/// The grammar is that of `k8s.io/apimachinery/pkg/api/resource`: a signed decimal number and one of the suffixes
/// `n u m k M G T P E`, `Ki Mi Gi Ti Pi Ei`, or a decimal exponent. Fractions finer than a billionth round up, as there.
pub fn parse_nano(text: &str) -> Result<i128, NotAQuantity> {
    let bad = || NotAQuantity(text.to_owned());
    let (sign, rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let digits_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    let (number, suffix) = rest.split_at(digits_end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || number.len() > 30 {
        return Err(bad());
    }
    let (factor, divisor) = scale(suffix).ok_or_else(bad)?;
    let mantissa: i128 = format!("{whole}{fraction}").parse().map_err(|_| bad())?;
    let denominator =
        10_i128.checked_pow(u32::try_from(fraction.len()).map_err(|_| bad())?).ok_or_else(bad)?;
    let scaled = mantissa.checked_mul(factor).and_then(|it| it.checked_mul(NANO)).ok_or_else(bad)?;
    let divided_by = denominator.checked_mul(divisor).ok_or_else(bad)?;
    // Rounds away from zero, as apimachinery does: a request is never understated.
    Ok(sign * ((scaled + divided_by - 1) / divided_by))
}

/// The factor and divisor of a suffix.
fn scale(suffix: &str) -> Option<(i128, i128)> {
    Some(match suffix {
        "" => (1, 1),
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1_000),
        "k" => (1_000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        _ => {
            let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            let power = 10_i128.checked_pow(exponent.unsigned_abs()).filter(|_| exponent.abs() <= 18)?;
            if exponent >= 0 { (power, 1) } else { (1, power) }
        }
    })
}

/// Thousandths, rounded up: CPU.
pub fn parse_milli(text: &str) -> Result<i64, NotAQuantity> {
    rounded_up(parse_nano(text)?, NANO / 1_000).ok_or_else(|| NotAQuantity(text.to_owned()))
}

/// Whole units, rounded up: bytes, cards.
pub fn parse_whole(text: &str) -> Result<i64, NotAQuantity> {
    rounded_up(parse_nano(text)?, NANO).ok_or_else(|| NotAQuantity(text.to_owned()))
}

fn rounded_up(nano: i128, unit: i128) -> Option<i64> {
    i64::try_from(nano.div_euclid(unit) + i128::from(nano.rem_euclid(unit) != 0)).ok()
}

/// The part of a machine that goes with cards, or that pods ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Size {
    /// Thousandths of a CPU.
    pub cpu_milli: i64,
    /// Bytes of memory.
    pub memory_bytes: i64,
    /// Bytes of local disk (`ephemeral-storage`).
    pub disk_bytes: i64,
}

impl Size {
    /// How many times `part` fits into this; a dimension in which `part` is zero does not count.
    pub fn fits(&self, part: &Size) -> u32 {
        let ratio = |whole: i64, part: i64| if part <= 0 { i64::from(u32::MAX) } else { whole.max(0) / part };
        let fits = ratio(self.cpu_milli, part.cpu_milli)
            .min(ratio(self.memory_bytes, part.memory_bytes))
            .min(ratio(self.disk_bytes, part.disk_bytes));
        u32::try_from(fits).unwrap_or(u32::MAX)
    }

    /// This, less another; never below zero in any dimension.
    #[must_use]
    pub fn less(&self, other: &Size) -> Size {
        Size {
            cpu_milli: (self.cpu_milli - other.cpu_milli).max(0),
            memory_bytes: (self.memory_bytes - other.memory_bytes).max(0),
            disk_bytes: (self.disk_bytes - other.disk_bytes).max(0),
        }
    }

    /// The sum of this and another.
    #[must_use]
    pub fn plus(&self, other: &Size) -> Size {
        Size {
            cpu_milli: self.cpu_milli.saturating_add(other.cpu_milli),
            memory_bytes: self.memory_bytes.saturating_add(other.memory_bytes),
            disk_bytes: self.disk_bytes.saturating_add(other.disk_bytes),
        }
    }

    /// This, `count` times.
    #[must_use]
    pub fn times(&self, count: u32) -> Size {
        Size {
            cpu_milli: self.cpu_milli.saturating_mul(i64::from(count)),
            memory_bytes: self.memory_bytes.saturating_mul(i64::from(count)),
            disk_bytes: self.disk_bytes.saturating_mul(i64::from(count)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_exact() {
        for (text, nano) in [
            ("8", 8 * NANO),
            ("500m", NANO / 2),
            ("1.5Gi", 3 * (1 << 29) * NANO),
            ("64Gi", 64 * (1 << 30) * NANO),
            ("2E3", 2_000 * NANO),
            ("2E", 2 * 1_000_000_000_000_000_000 * NANO),
            ("2Ei", 2 * (1 << 60) * NANO),
            ("1e-3", NANO / 1_000),
            ("-1", -NANO),
            (".5", NANO / 2),
            ("9223372036854775807", i128::from(i64::MAX) * NANO),
        ] {
            assert_eq!(parse_nano(text), Ok(nano), "{text}");
        }
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for text in ["", "Gi", "1.2.3", "8 Gi", "1gi", "NaN", "1e99", "--1", "ada", "1e", "0x10"] {
            assert_eq!(parse_nano(text), Err(NotAQuantity(text.to_owned())), "{text}");
        }
    }

    #[test]
    fn units_round_up() {
        assert_eq!(parse_milli("100u"), Ok(1));
        assert_eq!(parse_whole("1500m"), Ok(2));
        assert_eq!(parse_whole("64Gi"), Ok(64 << 30));
    }

    #[test]
    fn a_part_of_nothing_fits_for_ever() {
        let whole = Size { cpu_milli: 64_000, memory_bytes: 512, disk_bytes: 0 };
        assert_eq!(whole.fits(&Size { cpu_milli: 8_000, memory_bytes: 64, disk_bytes: 0 }), 8);
        assert_eq!(whole.fits(&Size { cpu_milli: 8_000, memory_bytes: 100, disk_bytes: 0 }), 5);
        assert_eq!(whole.fits(&Size { cpu_milli: 8_000, memory_bytes: 64, disk_bytes: 1 }), 0);
    }
}

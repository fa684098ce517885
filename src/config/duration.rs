//! Durations in the format of Go and the `nats` command line: `5s`, `1.5s`, `500ms`, `1m30s`.

/// Nanoseconds in each unit. Source: `time.ParseDuration` of Go.
const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

const NANOS_PER_MILLI: u64 = 1_000_000;

/// Parses a positive duration, in milliseconds. Fractions of a millisecond are rounded up.
///
/// # Errors
/// If the text is not a positive duration. The error describes a valid one.
pub fn parse_ms(text: &str) -> Result<u64, String> {
    let nanos = parse_nanos(text).filter(|nanos| *nanos > 0);
    nanos
        .map(|nanos| nanos.div_ceil(NANOS_PER_MILLI))
        .ok_or_else(|| "must be a duration such as 500ms, 1.5s or 1m30s".to_owned())
}

fn parse_nanos(text: &str) -> Option<u64> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let (number, after) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit() && c != '.')?);
        let unit_len = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_len);

        let nanos = UNITS.iter().find(|(name, _)| *name == unit).and_then(|(_, nanos)| times(number, *nanos))?;
        total = total.checked_add(nanos)?;
        rest = after;
    }
    Some(total)
}

/// Multiplies a decimal number by the nanoseconds of its unit.
fn times(number: &str, nanos: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };

    let mut digit_value = nanos;
    let mut part: u64 = 0;
    for digit in fraction.bytes() {
        digit_value /= 10;
        part += u64::from(digit - b'0') * digit_value;
    }
    whole.checked_mul(nanos)?.checked_add(part)
}

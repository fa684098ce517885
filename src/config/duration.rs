//! Durations as the `nats` command line writes them: `5s`, `500ms`, `1m30s`.

/// Reads a duration in milliseconds.
///
/// # Errors
/// With what would be right.
pub fn parse_ms(text: &str) -> Result<u64, String> {
    let cure = || "must be a duration such as 500ms, 5s or 1m30s".to_owned();
    let mut rest = text;
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(cure)?;
        let (number, after) = rest.split_at(digits);
        let unit_len = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_len);
        let factor: u64 = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(cure()),
        };
        let number: u64 = number.parse().map_err(|_| cure())?;
        total = number.checked_mul(factor).and_then(|ms| total.checked_add(ms)).ok_or_else(cure)?;
        rest = after;
    }
    if total == 0 { Err(cure()) } else { Ok(total) }
}

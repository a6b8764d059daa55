//! Lengths of time on the command line.

use std::str::FromStr;
use std::time::Duration;

/// A length of time as people write it: a whole number of days, hours, minutes or seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LengthOfTime(pub(crate) Duration);

impl FromStr for LengthOfTime {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || format!("'{text}' is no length of time; write 30d, 12h, 45m or 90s");
        let unit = text.char_indices().last().ok_or_else(wrong)?;
        let seconds = match unit.1 {
            'd' => 24 * 3600,
            'h' => 3600,
            'm' => 60,
            's' => 1,
            _ => return Err(wrong()),
        };
        let number: u64 = text[..unit.0].parse().map_err(|_| wrong())?;
        let length = number.checked_mul(seconds).ok_or_else(wrong)?;
        Ok(Self(Duration::from_secs(length)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_of_time_has_a_number_and_a_unit() {
        let seconds = |text: &str| {
            let length = text.parse::<LengthOfTime>();
            length.map(|length| length.0.as_secs())
        };
        assert_eq!(seconds("30d"), Ok(30 * 24 * 3600));
        assert_eq!(seconds("90s"), Ok(90));
        for wrong in [
            "",
            "d",
            "30",
            "-1d",
            "1.5h",
            "30 d",
            "18446744073709551615d",
            "5é",
        ] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}

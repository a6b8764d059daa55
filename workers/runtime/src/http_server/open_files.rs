//! How many files and sockets the process may have open.

/// Reads the process's limit of open files (`ulimit -n`); none where the system does not say or has none.
pub fn open_files() -> Option<u64> {
    parse(&std::fs::read_to_string("/proc/self/limits").ok()?)
}

fn parse(limits: &str) -> Option<u64> {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_counts_and_unlimited_is_none() {
        let limits = |soft: &str| {
            format!("Max processes  7 7 processes\nMax open files            {soft}  4096  files\n")
        };
        assert_eq!(parse(&limits("1024")), Some(1024));
        assert_eq!(parse(&limits("unlimited")), None);
        assert_eq!(parse(""), None);
    }
}

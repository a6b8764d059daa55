//! The services of a deployment as children of this process, on free ports of the loopback interface, and links to them
//! that can fail: what `radialog chaos` and the tests break and mend. They work as root and without an init system, and end
//! with the process that started them, however it ends.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::TcpListener;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

pub use broker::LocalBroker;
pub use process::LocalProcess;
pub use proxy::TcpProxy;
pub use redis::LocalRedis;

mod broker;
mod process;
mod proxy;
mod redis;

/// The time that a service may take to answer after its start. RabbitMQ takes 4 s on an idle machine, and more than 90 s on
/// one with ten times as much to do as it has cores.
const START_TIMEOUT: Duration = Duration::from_secs(300);

/// Where ports are looked for: below those that Linux gives to outgoing connections, one of which could otherwise take the
/// port of a service that is down for a moment.
const PORTS: Range<u16> = 15000..32000;

/// Returns a port that nobody listens on, and that this process has not been given before.
///
/// # Errors
/// Where the machine has none left.
pub fn free_port() -> io::Result<u16> {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    // Other processes look for ports, too: each begins elsewhere.
    let random = RandomState::new().hash_one(std::process::id());
    let begin = (random % PORTS.len() as u64) as usize;
    let is_free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let port = PORTS
        .cycle()
        .skip(begin)
        .take(PORTS.len())
        .find(|port| !given.contains(port) && is_free(*port))
        .ok_or_else(|| io::Error::new(io::ErrorKind::AddrInUse, "no port is free"))?;
    given.insert(port);
    Ok(port)
}

/// Repeats a check until it succeeds.
///
/// # Errors
/// Where it has not within five minutes.
pub async fn until_ready<F: Future<Output = bool>>(
    what: &str,
    mut is_ready: impl FnMut() -> F,
) -> io::Result<()> {
    let ready = async {
        while !is_ready().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let timed_out = |_| {
        let seconds = START_TIMEOUT.as_secs();
        io::Error::other(format!("{what} did not start within {seconds} s"))
    };
    tokio::time::timeout(START_TIMEOUT, ready)
        .await
        .map_err(timed_out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_port_is_given_twice() {
        let given: BTreeSet<u16> = (0..2000).map(|_| free_port().unwrap()).collect();
        assert_eq!(given.len(), 2000);
        assert!(given.iter().all(|port| PORTS.contains(port)));
    }
}

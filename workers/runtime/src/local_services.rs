//! The services of a deployment as children of this process, on free ports of the loopback interface, and links to them
//! that can fail: what `radialog chaos` and the tests break and mend. They work as root and without an init system, and end
//! with the process that started them, however it ends.

use std::io;
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

/// Returns a port that nobody listens on.
///
/// # Errors
/// Where the machine has none left.
pub fn free_port() -> io::Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?
        .local_addr()?
        .port())
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

//! A TCP proxy in front of a service, whose link can fail in the ways that networks do.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Bytes that are passed on at a time.
const BUFFER: usize = 16 << 10;

/// Passes connections on to a service, until it is told to fail.
pub struct TcpProxy {
    address: SocketAddr,
    link: watch::Sender<Link>,
    _running: DropGuard,
}

/// How the link is, and how often its connections were reset.
#[derive(Clone, Copy, PartialEq)]
struct Link {
    state: LinkState,
    resets: u64,
}

#[derive(Clone, Copy, PartialEq)]
enum LinkState {
    Connected,
    /// Nothing passes, either way, and nothing is closed.
    Stalled,
    /// The service hears its clients, but its answers are lost.
    ResponsesDropped,
    Disconnected,
}

impl TcpProxy {
    /// Starts a proxy on a free port of the loopback interface in front of the service at `url`.
    ///
    /// # Errors
    /// Where there is no free port.
    pub async fn start(url: &str) -> io::Result<Self> {
        let (start, end) = authority(url);
        let target = url[start..end].to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (link, state) = watch::channel(Link {
            state: LinkState::Connected,
            resets: 0,
        });
        let address = listener.local_addr()?;
        let running = CancellationToken::new();
        tokio::spawn(
            running
                .clone()
                .run_until_cancelled_owned(accept(listener, target, state)),
        );
        Ok(Self {
            address,
            link,
            _running: running.drop_guard(),
        })
    }

    /// Returns `url` with its host and port replaced by the proxy's.
    pub fn in_front_of(&self, url: &str) -> String {
        let (start, end) = authority(url);
        format!("{}{}{}", &url[..start], self.address, &url[end..])
    }

    /// The port that it listens at.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Closes every connection and refuses new ones.
    pub fn disconnect(&self) {
        self.become_link(LinkState::Disconnected);
    }

    /// Lets nothing through from now on, without closing or refusing anything; [`TcpProxy::restore`] passes it on.
    pub fn stall(&self) {
        self.become_link(LinkState::Stalled);
    }

    /// Loses the service's answers from now on, without closing anything.
    pub fn drop_responses(&self) {
        self.become_link(LinkState::ResponsesDropped);
    }

    /// Breaks every connection with a TCP reset; new ones are let through.
    pub fn reset(&self) {
        self.link.send_modify(|link| link.resets += 1);
    }

    /// Lets new connections through.
    pub fn restore(&self) {
        self.become_link(LinkState::Connected);
    }

    fn become_link(&self, state: LinkState) {
        self.link.send_modify(|link| link.state = state);
    }
}

/// The place of host and port in a URL.
fn authority(url: &str) -> (usize, usize) {
    let after_scheme = url.find("://").map_or(0, |at| at + 3);
    let end = url[after_scheme..]
        .find('/')
        .map_or(url.len(), |at| after_scheme + at);
    let start = url[after_scheme..end]
        .rfind('@')
        .map_or(after_scheme, |at| after_scheme + at + 1);
    (start, end)
}

async fn accept(listener: TcpListener, target: String, link: watch::Receiver<Link>) {
    while let Ok((client, _)) = listener.accept().await {
        let state = link.borrow().state;
        if matches!(state, LinkState::Connected | LinkState::Stalled) {
            tokio::spawn(pass(client, target.clone(), link.clone()));
        }
    }
}

/// Copies both ways until one side ends or the link is disconnected; then both sides are closed.
async fn pass(mut client: TcpStream, target: String, mut link: watch::Receiver<Link>) {
    let resets = link.borrow_and_update().resets;
    let Ok(mut server) = TcpStream::connect(&target).await else {
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let is_reset = {
        let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
            (client.split(), server.split());
        let answers = async {
            let lost = link.clone();
            tokio::select! {
                _ = copy(&mut from_server, &mut to_client, link.clone()) => {}
                () = becomes(lost, |link| link.state == LinkState::ResponsesDropped) => {
                    let _ = tokio::io::copy(&mut from_server, &mut tokio::io::sink()).await;
                }
            }
        };
        tokio::select! {
            _ = copy(&mut from_client, &mut to_server, link.clone()) => false,
            () = answers => false,
            () = becomes(link.clone(), |link| link.state == LinkState::Disconnected) => false,
            () = becomes(link.clone(), |link| link.resets != resets) => true,
        }
    };
    if is_reset {
        // Closing a socket that does not linger sends a reset instead of an end.
        let _ = (client.set_zero_linger(), server.set_zero_linger());
    }
}

/// Copies until the end, but for the times in which the link is stalled.
async fn copy(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    mut link: watch::Receiver<Link>,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        // An error means that the proxy is gone, and every link with it.
        let flows = link.wait_for(|link| link.state != LinkState::Stalled).await;
        drop(flows.map_err(io::Error::other)?);
        to.write_all(&buffer[..read]).await?;
    }
}

async fn becomes(mut link: watch::Receiver<Link>, is_so: impl FnMut(&Link) -> bool) {
    // An error means that the proxy is gone, and every link with it.
    drop(link.wait_for(is_so).await);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that sends back what it gets, and a client behind a proxy.
    async fn echo() -> (TcpProxy, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = TcpProxy::start(&listener.local_addr().unwrap().to_string())
            .await
            .unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        let client = TcpStream::connect(proxy.address).await.unwrap();
        (proxy, client)
    }

    async fn echoed(client: &mut TcpStream) -> u8 {
        client.write_all(b"x").await.unwrap();
        client.read_u8().await.unwrap()
    }

    #[tokio::test]
    async fn a_stalled_link_keeps_what_was_sent_until_it_is_restored() {
        let (proxy, mut client) = echo().await;
        assert_eq!(echoed(&mut client).await, b'x');
        proxy.stall();
        client.write_all(b"y").await.unwrap();
        let restored = async {
            tokio::task::yield_now().await;
            proxy.restore();
        };
        let (byte, ()) = tokio::join!(client.read_u8(), restored);
        assert_eq!(byte.unwrap(), b'y');
    }

    #[tokio::test]
    async fn a_reset_link_breaks_its_connections_and_lets_new_ones_through() {
        let (proxy, mut client) = echo().await;
        assert_eq!(echoed(&mut client).await, b'x');
        proxy.reset();
        let error = client.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        let mut next = TcpStream::connect(proxy.address).await.unwrap();
        assert_eq!(echoed(&mut next).await, b'x');
    }
}

//! A TCP proxy in front of a service, whose link can fail in the ways that networks do.

use std::net::SocketAddr;

use anyhow::Result;
use tokio::io::copy;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Passes connections on to a service, until it is told to fail.
pub struct TcpProxy {
    address: SocketAddr,
    link: watch::Sender<LinkState>,
    _running: DropGuard,
}

#[derive(Clone, Copy, PartialEq)]
enum LinkState {
    Connected,
    /// The service hears its clients, but its answers are lost.
    ResponsesDropped,
    Disconnected,
}

impl TcpProxy {
    /// Starts a proxy on a free port in front of the service at `url`.
    pub async fn start(url: &str) -> Result<Self> {
        let (start, end) = authority(url);
        let target = url[start..end].to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (link, state) = watch::channel(LinkState::Connected);
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

    /// Closes every connection and refuses new ones.
    pub fn disconnect(&self) {
        self.link.send_replace(LinkState::Disconnected);
    }

    /// Loses the service's answers from now on, without closing anything.
    pub fn drop_responses(&self) {
        self.link.send_replace(LinkState::ResponsesDropped);
    }

    /// Lets new connections through.
    pub fn restore(&self) {
        self.link.send_replace(LinkState::Connected);
    }
}

/// Where host and port stand in a URL.
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

async fn accept(listener: TcpListener, target: String, link: watch::Receiver<LinkState>) {
    while let Ok((client, _)) = listener.accept().await {
        if *link.borrow() == LinkState::Connected {
            tokio::spawn(pass(client, target.clone(), link.clone()));
        }
    }
}

/// Copies both ways until one side ends or the link is disconnected; then both sides are closed.
async fn pass(mut client: TcpStream, target: String, link: watch::Receiver<LinkState>) {
    let Ok(mut server) = TcpStream::connect(&target).await else {
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.split(), server.split());
    let answers = async {
        tokio::select! {
            _ = copy(&mut from_server, &mut to_client) => {}
            () = becomes(link.clone(), LinkState::ResponsesDropped) => {
                let _ = copy(&mut from_server, &mut tokio::io::sink()).await;
            }
        }
    };
    tokio::select! {
        _ = copy(&mut from_client, &mut to_server) => {}
        () = answers => {}
        () = becomes(link.clone(), LinkState::Disconnected) => {}
    }
}

async fn becomes(mut link: watch::Receiver<LinkState>, state: LinkState) {
    // An error means that the proxy is gone, and every link with it.
    drop(link.wait_for(|link| *link == state).await);
}

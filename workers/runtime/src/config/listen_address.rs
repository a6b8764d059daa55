//! Where a server of this process listens, as people write it.

use std::net::{SocketAddr, ToSocketAddrs};
use std::str::FromStr;

use thiserror::Error;

/// An address to listen on: `127.0.0.1:7860`, `[::1]:7860`, or a name of this machine, as `localhost:7860`. Of a name with
/// several addresses it is the first of IPv4, if there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenAddress(pub SocketAddr);

/// A text that is no [`ListenAddress`].
#[derive(Debug, Error)]
pub enum ListenAddressError {
    /// It has another form.
    #[error("write an address and a port, e.g. 127.0.0.1:7860 or localhost:7860")]
    Form,
    /// Nobody knows the name.
    #[error("the name has no address: {0}; write an address of this machine, e.g. 127.0.0.1:7860")]
    Name(std::io::Error),
}

impl FromStr for ListenAddress {
    type Err = ListenAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(address) = text.parse() {
            return Ok(Self(address));
        }
        let (host, port) = text.rsplit_once(':').ok_or(ListenAddressError::Form)?;
        let port: u16 = port.parse().map_err(|_| ListenAddressError::Form)?;
        let is_name = |character: char| character.is_alphanumeric() || "-._".contains(character);
        if host.is_empty() || !host.chars().all(is_name) {
            return Err(ListenAddressError::Form);
        }
        let known = (host, port).to_socket_addrs();
        let known: Vec<_> = known.map_err(ListenAddressError::Name)?.collect();
        let best = known.iter().find(|address| address.is_ipv4());
        best.or(known.first())
            .map(|address| Self(*address))
            .ok_or(ListenAddressError::Form)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_names_of_this_machine_are_taken_and_others_told_what_to_write() {
        for (text, expected) in [
            ("127.0.0.1:7860", "127.0.0.1:7860"),
            ("[::1]:1", "[::1]:1"),
            ("localhost:7860", "127.0.0.1:7860"),
        ] {
            let address: ListenAddress = text.parse().unwrap();
            assert_eq!(address.0, expected.parse().unwrap(), "{text}");
        }
        for text in [
            "localhost",
            "8080",
            ":80",
            "http://localhost:80",
            "localhost:99999",
            "::1",
        ] {
            let error = text.parse::<ListenAddress>().unwrap_err().to_string();
            assert!(error.contains("localhost:7860"), "{text}: {error}");
        }
    }
}

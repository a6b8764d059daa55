//! Variables that Kubernetes sets in every pod for each Service of its namespace. Those of a Service whose name begins with
//! `radialog-` look like settings of ours: `radialog-gateway` gives `RADIALOG_GATEWAY_PORT=tcp://10.0.0.1:80`.
//!
//! The names are those of <https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables> and of the
//! Docker links that they follow.

use std::net::IpAddr;

const PROTOCOLS: [&str; 3] = ["tcp", "udp", "sctp"];

/// Says whether a variable has a name and a value that Kubernetes gives to a Service. Both must fit: a mistyped setting is
/// no address.
pub(super) fn is_service_link(variable: &str, value: &str) -> bool {
    if variable.ends_with("_SERVICE_HOST") {
        return is_ip(value);
    }
    // A port of the Service may have a name, which comes last.
    if let Some((_, name)) = variable.split_once("_SERVICE_PORT")
        && (name.is_empty() || name.starts_with('_'))
    {
        return is_port(value);
    }
    if variable.ends_with("_PORT") && is_address(value) {
        return true;
    }
    let Some((_, port)) = variable.split_once("_PORT_") else {
        return false;
    };
    let mut parts = port.split('_');
    let (number, protocol) = (parts.next(), parts.next());
    let is_known = number.is_some_and(is_port)
        && protocol.is_some_and(|name| PROTOCOLS.contains(&&*name.to_ascii_lowercase()));
    is_known
        && match (parts.next(), parts.next()) {
            (None, _) => is_address(value),
            (Some("PROTO"), None) => PROTOCOLS.contains(&value),
            (Some("PORT"), None) => is_port(value),
            (Some("ADDR"), None) => is_ip(value),
            _ => false,
        }
}

/// `tcp://10.0.0.1:80`, or `tcp://[fd00::1]:80`.
fn is_address(value: &str) -> bool {
    let parts = value
        .split_once("://")
        .and_then(|(protocol, rest)| Some((protocol, rest.rsplit_once(':')?)));
    parts.is_some_and(|(protocol, (host, port))| {
        PROTOCOLS.contains(&protocol) && is_ip(host) && is_port(port)
    })
}

fn is_ip(value: &str) -> bool {
    let bare = value.strip_prefix('[').and_then(|v| v.strip_suffix(']'));
    bare.unwrap_or(value).parse::<IpAddr>().is_ok()
}

fn is_port(value: &str) -> bool {
    value.parse::<u16>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kubernetes_sets_for_a_service_is_known() {
        for (variable, value) in [
            ("RADIALOG_GATEWAY_SERVICE_HOST", "10.0.0.1"),
            ("RADIALOG_GATEWAY_SERVICE_HOST", "fd00::1"),
            ("RADIALOG_GATEWAY_SERVICE_PORT", "80"),
            ("RADIALOG_GATEWAY_SERVICE_PORT_HTTP", "80"),
            ("RADIALOG_GATEWAY_PORT", "tcp://10.0.0.1:80"),
            ("RADIALOG_GATEWAY_PORT", "tcp://[fd00::1]:80"),
            ("RADIALOG_GATEWAY_PORT_80_TCP", "tcp://10.0.0.1:80"),
            ("RADIALOG_GATEWAY_PORT_80_TCP_PROTO", "tcp"),
            ("RADIALOG_GATEWAY_PORT_80_TCP_PORT", "80"),
            ("RADIALOG_GATEWAY_PORT_80_TCP_ADDR", "10.0.0.1"),
            ("RADIALOG_GATEWAY_INTERNAL_PORT", "udp://10.0.0.1:53"),
        ] {
            assert!(is_service_link(variable, value), "{variable}={value}");
        }
    }

    #[test]
    fn a_mistyped_setting_is_no_service() {
        for (variable, value) in [
            ("RADIALOG_GATEWAY_PORT", "7860"),
            ("RADIALOG_GATEWAY_PORT", "http://10.0.0.1:80"),
            ("RADIALOG_GATEWAY_PORT", "tcp://gateway:80"),
            ("RADIALOG_GATEWAY_SERVICE_HOST", "gateway"),
            ("RADIALOG_GATEWAY_SERVICE_PORTS", "80"),
            ("RADIALOG_GATEWAY_LISTEN_PORT_80_TCP_NAME", "x"),
            ("RADIALOG_GATEWAY_PORT_HTTP_TCP", "tcp://10.0.0.1:80"),
            ("RADIALOG_GATEWAY_LISTENS", "tcp://10.0.0.1:80"),
        ] {
            assert!(!is_service_link(variable, value), "{variable}={value}");
        }
    }
}

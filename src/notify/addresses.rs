//! Where a webhook may not go: whoever may write a URL must not reach what only this machine and its cloud may reach.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Where clouds tell a machine its secrets, beside the link-local address that most use.
const METADATA: [IpAddr; 3] = [
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254)),
];

/// Why nothing is sent to this address; `None` when it may be.
pub fn refused(address: IpAddr) -> Option<&'static str> {
    let address = behind(address);
    let is_reserved = match address {
        IpAddr::V4(it) => it.octets()[0] == 0 || it.octets()[0] >= 240 || it.is_broadcast(),
        // Site-local addresses are no more, and some still use them.
        IpAddr::V6(it) => it.is_unspecified() || it.segments()[0] & 0xffc0 == 0xfec0,
    };
    let is_link_local = match address {
        IpAddr::V4(it) => it.is_link_local(),
        IpAddr::V6(it) => it.is_unicast_link_local(),
    };
    if METADATA.contains(&address) {
        Some("is where a cloud keeps a machine's secrets")
    } else if address.is_loopback() {
        Some("is this machine itself")
    } else if is_link_local {
        Some("is link-local")
    } else if address.is_multicast() {
        Some("is multicast")
    } else if is_reserved {
        Some("is no address of a server")
    } else {
        None
    }
}

/// Is the address in one of these networks?
pub fn is_allowed(allowed: &[IpNet], address: IpAddr) -> bool {
    let behind = behind(address);
    allowed.iter().any(|it| it.contains(&address) || it.contains(&behind))
}

/// The address that a packet ends up at: IPv6 has several ways to write one of IPv4.
fn behind(address: IpAddr) -> IpAddr {
    let IpAddr::V6(it) = address else { return address };
    let bytes = it.octets();
    let v4 = |at: usize| IpAddr::V4(Ipv4Addr::new(bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]));
    match it.segments() {
        // Mapped, compatible (but not :: and ::1), and both prefixes of NAT64.
        [0, 0, 0, 0, 0, 0xffff, ..] | [0, 0, 0, 0, 0, 0, 1..=u16::MAX, _] | [0x0064, 0xff9b, 0 | 1, ..] => {
            v4(12)
        }
        // 6to4.
        [0x2002, ..] => v4(2),
        _ => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_this_machine_may_reach_is_refused_however_it_is_written() {
        for (address, why) in [
            ("127.0.0.1", Some("is this machine itself")),
            ("127.255.0.9", Some("is this machine itself")),
            ("::1", Some("is this machine itself")),
            ("::ffff:127.0.0.1", Some("is this machine itself")),
            ("::7f00:1", Some("is this machine itself")),
            ("64:ff9b::7f00:1", Some("is this machine itself")),
            ("2002:7f00:1::", Some("is this machine itself")),
            ("169.254.169.254", Some("is link-local")),
            ("::ffff:169.254.169.254", Some("is link-local")),
            ("64:ff9b::a9fe:a9fe", Some("is link-local")),
            ("fe80::1", Some("is link-local")),
            ("febf::1", Some("is link-local")),
            ("100.100.100.200", Some("is where a cloud keeps a machine's secrets")),
            ("192.0.0.192", Some("is where a cloud keeps a machine's secrets")),
            ("fd00:ec2::254", Some("is where a cloud keeps a machine's secrets")),
            ("0.0.0.0", Some("is no address of a server")),
            ("0.1.2.3", Some("is no address of a server")),
            ("240.0.0.1", Some("is no address of a server")),
            ("255.255.255.255", Some("is no address of a server")),
            ("::", Some("is no address of a server")),
            ("fec0::1", Some("is no address of a server")),
            ("224.0.0.1", Some("is multicast")),
            ("ff02::1", Some("is multicast")),
            ("10.0.0.1", None),
            ("192.168.1.1", None),
            ("172.16.0.1", None),
            ("100.100.100.201", None),
            ("203.0.113.7", None),
            ("2001:db8::1", None),
            ("fd00::1", None),
        ] {
            assert_eq!(refused(address.parse().unwrap()), why, "{address}");
        }
    }

    #[test]
    fn a_network_that_is_allowed_is_so_however_its_addresses_are_written() {
        let allowed: Vec<IpNet> = vec!["127.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        for (address, expected) in [
            ("127.0.0.1", true),
            ("::ffff:127.0.0.1", true),
            ("fd00:ec2::254", true),
            ("169.254.169.254", false),
            ("::1", false),
        ] {
            assert_eq!(is_allowed(&allowed, address.parse().unwrap()), expected, "{address}");
        }
    }
}

//! Address ranges (CIDR), and which addresses no peer may ever name. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A range of addresses, e.g. `10.2.0.0/16` or `fd00::/8`; a bare address is a range of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    network: IpAddr,
    prefix: u8,
}

/// Why a text is no range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    #[error("{0:?} is not an address range such as 10.2.0.0/16")]
    Malformed(String),
    #[error("{0} has bits set behind its prefix; did you mean {1}/{2}?")]
    HostBits(String, IpAddr, u8),
}

impl Range {
    /// Whether the address lies in this range; an IPv4-mapped IPv6 address counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.network.is_ipv4() && masked(address, self.prefix) == self.network
    }

    /// Whether every address of this range is a loopback address.
    pub fn is_loopback(&self) -> bool {
        match self.network {
            IpAddr::V4(network) => network.is_loopback() && self.prefix >= 8,
            IpAddr::V6(network) => network.is_loopback() && self.prefix == 128,
        }
    }
}

/// Whether a peer with these ranges may name `address` as an endpoint. Loopback only where a range lies within loopback; never
/// unspecified, multicast, broadcast, link-local or metadata addresses, whatever a range says: reaching those would turn our
/// proxies against our own machines (bad input 120).
pub fn is_granted(ranges: &[Range], address: IpAddr) -> bool {
    let address = address.to_canonical();
    if address.is_unspecified() || address.is_multicast() || is_link_local_or_metadata(address) {
        return false;
    }
    ranges.iter().any(|range| range.contains(address) && (!address.is_loopback() || range.is_loopback()))
}

fn is_link_local_or_metadata(address: IpAddr) -> bool {
    match address {
        // 169.254.169.254, the metadata service of most clouds, is link-local.
        IpAddr::V4(v4) => v4.is_link_local() || v4 == Ipv4Addr::BROADCAST || v4.octets()[0] == 0,
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6 == Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254),
    }
}

fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
            Ipv4Addr::from_bits(v4.to_bits() & mask).into()
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix.min(128))).unwrap_or(0);
            Ipv6Addr::from_bits(v6.to_bits() & mask).into()
        }
    }
}

impl FromStr for Range {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Self, RangeError> {
        let malformed = || RangeError::Malformed(text.chars().take(80).collect());
        let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
        let network: IpAddr = address.parse().map_err(|_| malformed())?;
        let longest = if network.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => longest,
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse().map_err(|_| malformed())?,
            Some(_) => return Err(malformed()),
        };
        if prefix > longest {
            return Err(malformed());
        }
        let base = masked(network, prefix);
        if base == network {
            Ok(Self { network, prefix })
        } else {
            Err(RangeError::HostBits(text.into(), base, prefix))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn granted(ranges: &[&str], address: &str) -> bool {
        let ranges: Vec<Range> = ranges.iter().map(|range| range.parse().expect("a range")).collect();
        is_granted(&ranges, address.parse().expect("an address"))
    }

    #[test]
    fn ranges_parse_strictly() {
        for good in ["10.0.0.0/8", "127.0.2.0/24", "0.0.0.0/0", "::/0", "fd00::/8", "10.1.2.3", "::1"] {
            assert!(good.parse::<Range>().is_ok(), "{good}");
        }
        for bad in ["10.0.0.0/33", "10.0.0.1/8", "10.0.0.0/", "10.0.0.0/+8", "a", "", "10.0.0/8", "::/129"] {
            assert!(bad.parse::<Range>().is_err(), "{bad}");
        }
    }

    #[test]
    fn bad_120_addresses_that_no_grant_can_name() {
        assert!(granted(&["10.0.0.0/8"], "10.9.8.7"));
        assert!(!granted(&["10.0.0.0/8"], "11.0.0.1"));
        assert!(!granted(&[], "10.0.0.1"));
        for everything in ["0.0.0.0/0", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4"] {
            for never in ["169.254.169.254", "0.0.0.0", "224.0.0.1", "255.255.255.255", "0.1.2.3"] {
                assert!(!granted(&[everything], never), "{everything} {never}");
            }
        }
        for never in ["::", "fe80::1", "ff02::1", "fd00:ec2::254", "::ffff:169.254.169.254", "::1"] {
            assert!(!granted(&["::/0", "0.0.0.0/0"], never), "{never}");
        }
    }

    #[test]
    fn bad_120_loopback_only_where_a_range_names_it() {
        assert!(!granted(&["0.0.0.0/0"], "127.0.0.1"));
        assert!(!granted(&["0.0.0.0/0"], "::ffff:127.0.0.1"));
        assert!(granted(&["127.0.2.0/24"], "127.0.2.7"));
        assert!(!granted(&["127.0.2.0/24"], "127.0.0.1"));
        assert!(granted(&["::1"], "::1"));
        assert!(!granted(&["126.0.0.0/7"], "127.0.0.1"));
    }
}

//! Shorthand for Envoy's messages: wrappers, addresses, matchers. Nothing here knows the mesh.

use std::net::SocketAddr;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::r#type::matcher::v3 as matcher;
use envoy_types::pb::google::protobuf::{self, BoolValue, UInt32Value};

use core::address::Address;
use core::config_source::ConfigSourceSpecifier;
use core::header_value_option::HeaderAppendAction;
use core::socket_address::PortSpecifier;
use matcher::string_matcher::MatchPattern;

pub(super) fn uint(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}

pub(super) fn boolean(value: bool) -> Option<BoolValue> {
    Some(BoolValue { value })
}

pub(super) fn duration(value: Duration) -> Option<protobuf::Duration> {
    let seconds = i64::try_from(value.as_secs()).unwrap_or(i64::MAX);
    Some(protobuf::Duration { seconds, nanos: i32::try_from(value.subsec_nanos()).unwrap_or(0) })
}

/// Subscribe on the aggregated stream.
pub(super) fn ads() -> Option<core::ConfigSource> {
    Some(core::ConfigSource {
        resource_api_version: core::ApiVersion::V3.into(),
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(core::AggregatedConfigSource {})),
        ..Default::default()
    })
}

pub(super) fn address(at: SocketAddr) -> core::Address {
    core::Address {
        address: Some(Address::SocketAddress(core::SocketAddress {
            address: at.ip().to_string(),
            port_specifier: Some(PortSpecifier::PortValue(at.port().into())),
            ..Default::default()
        })),
    }
}

fn string(pattern: MatchPattern) -> matcher::StringMatcher {
    matcher::StringMatcher { match_pattern: Some(pattern), ..Default::default() }
}

pub(super) fn exact(text: impl Into<String>) -> matcher::StringMatcher {
    string(MatchPattern::Exact(text.into()))
}

pub(super) fn prefix(text: impl Into<String>) -> matcher::StringMatcher {
    string(MatchPattern::Prefix(text.into()))
}

/// The whole text must match.
pub(super) fn regex(text: impl Into<String>) -> matcher::StringMatcher {
    string(MatchPattern::SafeRegex(matcher::RegexMatcher { regex: text.into(), ..Default::default() }))
}

/// Sets a header, whatever was there.
pub(super) fn overwrite(name: &str, value: &str) -> core::HeaderValueOption {
    core::HeaderValueOption {
        header: Some(core::HeaderValue { key: name.into(), value: value.into(), ..Default::default() }),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        ..Default::default()
    }
}

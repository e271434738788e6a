use clap::CommandFactory;
use symbolon_kit::text::printable;

use super::*;

fn parsed(line: &str) -> Result<Cli, u8> {
    parse(line.split(' ').map(Into::into))
}

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_has_help_with_examples() {
    fn walk(command: &mut clap::Command, path: &str, seen: &mut Vec<String>) {
        let name = format!("{path} {}", command.get_name());
        if command.has_subcommands() {
            command.get_subcommands_mut().filter(|one| one.get_name() != "help").for_each(|one| walk(one, &name, seen));
        } else {
            let help = command.render_long_help().to_string();
            assert!(help.contains("Examples:"), "{name} has no examples");
            seen.push(name);
        }
    }
    let (mut command, mut seen) = (Cli::command(), Vec::new());
    walk(&mut command, "", &mut seen);
    assert!(seen.len() >= 20, "{seen:?}");
}

#[test]
fn usage_errors_end_with_64_and_help_with_0() {
    assert_eq!(parsed("symbolon frobnicate").err(), Some(failure::USAGE));
    assert_eq!(parsed("symbolon token create").err(), Some(failure::USAGE));
    assert_eq!(parsed("symbolon token create --node x --ttl soon").err(), Some(failure::USAGE));
    for line in [
        "identity create spiffe://a/x --selector unix:uid:1",
        "identity create spiffe://a/x --node n --parent spiffe://a/n --selector unix:uid:1",
        "identity create spiffe://a/x --node n",
        "identity create spiffe://a/x --node n --selector unix:uid:1 --expires soon",
        "identity explain --pid 1",
        "identity explain --node n",
        "identity explain --node n --pid 0",
        "identity explain --node n --pid 1 --selector unix:uid:1",
        "identity delete",
        "identity apply",
    ] {
        assert_eq!(parsed(&format!("symbolon {line}")).err(), Some(failure::USAGE), "{line}");
    }
    // 0 in a message means the default: what was meant to be short would last ten minutes.
    for ttl in ["0s", "500ms", "1s500ms"] {
        for command in
            ["token create --node x", "peer invite b", "identity create spiffe://a/x --node n --selector unix:uid:1"]
        {
            assert_eq!(
                parsed(&format!("symbolon {command} --ttl {ttl}")).err(),
                Some(failure::USAGE),
                "{command} {ttl}"
            );
        }
    }
    assert_eq!(parsed("symbolon --help").err(), Some(0));
    assert_eq!(parsed("symbolon rollout get --help").err(), Some(0));
}

#[test]
fn the_admin_socket_may_stand_anywhere() {
    for line in ["symbolon --admin-socket a.sock peer list", "symbolon peer list --admin-socket a.sock"] {
        assert_eq!(parsed(line).unwrap().admin_socket, PathBuf::from("a.sock"));
    }
}

#[test]
fn what_prints_data_takes_the_form_of_its_output() {
    for command in [
        "token create --node n",
        "peer invite b",
        "peer accept b x",
        "peer list",
        "peer status b",
        "bundle show",
        "audit verify",
        "bundle list",
        "bundle watch b.example",
        "bundle set b.example f",
        "federation create b.example --profile https_web --url https://b.example/ --label a=b",
        "federation update b.example --profile manual",
        "federation list",
        "federation show b.example",
        "federation refresh b.example",
        "federation delete b.example",
        "authority list",
        "authority prepare",
        "authority activate 3f",
        "authority taint 3f --force",
        "authority revoke --kind upstream 3f",
        "identity create spiffe://a/x --node n --selector unix:uid:1",
        "identity create spiffe://a/x --parent spiffe://a/n --selector unix:uid:1 --federates-with-none --expires 24h",
        "identity create spiffe://a/n --node-alias --selector join_token:node:n",
        "identity list",
        "identity list --node n --spiffe-id spiffe://a/x --selector unix:uid:1",
        "identity explain --node n --pid 1",
        "identity explain --selector unix:uid:1",
        "identity delete 01 02",
        "identity apply -f a -f b --dry-run --prune --exit-code",
        "service list",
        "service endpoints a.b",
        "proxy list",
        "rollout list",
        "rollout get a.b -w",
        "rollout pause a.b",
        "rollout resume a.b",
        "rollout promote a.b --full",
        "rollout abort a.b",
    ] {
        for format in ["table", "json", "yaml"] {
            assert!(parsed(&format!("symbolon {command} -o {format}")).is_ok(), "{command} -o {format}");
        }
    }
}

#[tokio::test]
async fn without_a_control_plane_a_command_ends_with_69_and_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("none.sock");
    let cli = parsed(&format!("symbolon peer list --admin-socket {}", socket.display())).unwrap();
    let failure = run(cli).await.unwrap_err();
    assert_eq!(failure.code, failure::UNREACHABLE);
    let message = failure.message().unwrap();
    assert!(message.contains("none.sock") && message.contains("symbolon serve"), "{message}");
}

#[test]
fn text_from_elsewhere_cannot_move_the_cursor() {
    assert_eq!(printable("a\x1b[2J\u{202e}b\né"), "a\\u{1b}[2J\\u{202e}b\\né");
}

#[test]
fn tables_are_aligned() {
    let mut table = output::Table::new(["A", "LONG"]);
    table.row(["longer".into(), "x".into()]);
    assert_eq!(table.to_string(), "A        LONG\nlonger   x\n");
}

use clap::CommandFactory as _;

use super::*;

fn code(args: &[&str]) -> String {
    let args = ["symbolon-sidecar"].iter().chain(args).map(OsString::from);
    format!("{:?}", main(args))
}

fn exit(code: u8) -> String {
    format!("{:?}", ExitCode::from(code))
}

#[test]
fn the_command_line_is_well_formed_and_every_command_has_examples() {
    Cli::command().debug_assert();
    for path in [&["run"][..], &["api", "fetch"], &["api", "watch"], &["api", "validate"], &["bootstrap"]] {
        let mut command = Cli::command();
        for name in path {
            command = command.find_subcommand(name).unwrap().clone();
        }
        let help = command.render_long_help().to_string();
        assert!(help.contains("Examples:"), "{path:?}: {help}");
    }
}

#[test]
fn exit_codes_are_those_of_the_design() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("sidecar.yaml");
    std::fs::write(&file, "trustDomian: a.example\n").unwrap();
    let (file, nowhere) = (file.to_str().unwrap(), dir.path().join("nobody.sock"));
    assert_eq!(code(&["--help"]), exit(0));
    assert_eq!(code(&["--version"]), exit(0));
    assert_eq!(code(&["fly"]), exit(64));
    assert_eq!(code(&["run", "--config", file]), exit(65));
    assert_eq!(code(&["bootstrap", "--config", file]), exit(65));
    let nowhere = nowhere.to_str().unwrap();
    assert_eq!(code(&["api", "fetch", "--socket", nowhere]), exit(69));
    assert_eq!(code(&["api", "fetch", "jwt", "--audience", "db", "--socket", nowhere]), exit(69));
    assert_eq!(code(&["api", "validate", "jwt", "--audience", "db", "--svid", "x", "--socket", nowhere]), exit(69));
    for wrong in [
        &["api", "fetch", "jwt"][..],
        &["api", "fetch", "x509", "--audience", "db"],
        &["api", "fetch", "x509", "-o", "token"],
        &["api", "validate", "jwt", "--svid", "x"],
        &["api", "watch", "--signal", "HUP"],
        &["api", "watch", "--write", "/tmp/x", "--signal", "HUP"],
        &["api", "watch", "--write", "/tmp/x", "--pid-file", "/x"],
        &["api", "watch", "--write", "/tmp/x", "--signal", "NONSENSE", "--pid-file", "/x"],
    ] {
        assert_eq!(code(wrong), exit(64), "{wrong:?}");
    }
}

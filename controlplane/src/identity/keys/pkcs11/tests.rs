//! Against SoftHSM. Its library reads the environment when it is loaded, so the test runs in a process of its own, which is this
//! program again.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};

use super::super::KeyManager as _;
use super::*;

const MODULES: [&str; 4] = [
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
];
const INSIDE: &str = "SYMBOLON_TEST_TOKEN";

pub(in crate::identity) fn module() -> &'static str {
    let found = MODULES.into_iter().find(|path| Path::new(path).exists());
    found.expect("SoftHSM is missing: apt-get install softhsm2, as `make test` does")
}

/// Runs `test` again, in a process whose SoftHSM has one fresh token "t" of its own, with PIN 1234 in a file.
pub(in crate::identity) fn in_its_own_process(test: &str, inside: impl FnOnce(&Path)) {
    if let Some(folder) = std::env::var_os(INSIDE) {
        return inside(Path::new(&folder));
    }
    let folder = tempfile::tempdir().unwrap();
    let (tokens, config, pin) =
        (folder.path().join("tokens"), folder.path().join("softhsm2.conf"), folder.path().join("pin"));
    std::fs::create_dir(&tokens).unwrap();
    std::fs::write(&config, format!("directories.tokendir = {}\nobjectstore.backend = file\n", tokens.display()))
        .unwrap();
    std::fs::write(&pin, "1234\n").unwrap();
    std::fs::set_permissions(&pin, std::fs::Permissions::from_mode(0o600)).unwrap();
    let made = Command::new("softhsm2-util")
        .args(["--init-token", "--free", "--label", "t", "--pin", "1234", "--so-pin", "5678", "--module", module()])
        .env("SOFTHSM2_CONF", &config)
        .output();
    let made = made.expect("SoftHSM is missing: apt-get install softhsm2, as `make test` does");
    assert!(made.status.success(), "{made:?}");
    let again = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads", "1"])
        .env("SOFTHSM2_CONF", &config)
        .env(INSIDE, folder.path())
        .output()
        .unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&again.stdout), String::from_utf8_lossy(&again.stderr));
    assert!(again.status.success() && said.contains("1 passed"), "{said}");
}

pub(in crate::identity) fn config(folder: &Path) -> Config {
    Config {
        module: module().into(),
        token: "t".into(),
        pin_file: folder.join("pin"),
        deadline: Duration::from_secs(10),
    }
}

#[test]
fn keys_are_made_used_and_destroyed_in_a_token() {
    in_its_own_process("identity::keys::pkcs11::tests::keys_are_made_used_and_destroyed_in_a_token", |folder| {
        let (config, a) = (config(folder), "a.example".parse().unwrap());
        let pool = open(&config, &a).unwrap();
        let key = pool.generate("x509-1").unwrap();
        assert!(key.is_slow());
        let signature = key.sign(b"message").unwrap();
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key.public_key()).verify(b"message", &signature).unwrap();
        let signature = key.sign_jws(b"message").unwrap();
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key.public_key()).verify(b"message", &signature).unwrap();
        // Another opening, as after a restart, finds it; another trust domain does not.
        let again = open(&config, &a).unwrap();
        assert_eq!(again.names().unwrap(), ["x509-1"]);
        assert_eq!(again.load("x509-1").unwrap().public_key(), key.public_key());
        let other = open(&config, &"b.example".parse().unwrap()).unwrap();
        assert_eq!(other.names().unwrap(), [""; 0]);
        assert!(matches!(other.load("x509-1"), Err(KeyError::Missing { .. })));
        // Many at once, on all sessions.
        std::thread::scope(|scope| {
            let all: Vec<_> = (0..32).map(|_| scope.spawn(|| key.sign(b"message").is_ok())).collect();
            assert!(all.into_iter().all(|one| one.join().unwrap()));
        });
        pool.remove("x509-1").unwrap();
        pool.remove("x509-1").unwrap();
        assert!(matches!(pool.load("x509-1"), Err(KeyError::Missing { .. })));
        // Fault 40: the key was disabled. It is told, and other keys go on.
        assert!(matches!(again.load("x509-1"), Err(KeyError::Missing { .. })));
        assert!(matches!(key.sign(b"message"), Err(KeyError::Token(_))));
        pool.generate("x509-2").unwrap().sign(b"message").unwrap();
        // Whatever is wrong with the way to it is told in words.
        let wrong = |change: &dyn Fn(&mut Config)| {
            let mut config = config.clone();
            change(&mut config);
            open(&config, &a).unwrap_err().to_string()
        };
        assert!(wrong(&|config| config.token = "u".into()).contains("\"u\" is not there"));
        assert!(wrong(&|config| config.module = "/nowhere.so".into()).contains("/nowhere.so cannot be loaded"));
        assert!(wrong(&|config| config.pin_file = "/nowhere".into()).contains("/nowhere"));
        std::fs::set_permissions(&config.pin_file, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(open(&config, &a), Err(KeyError::Mode { mode: 0o644, .. })), "bad input 136");
    });
}

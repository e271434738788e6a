//! One case: a chain, a token or a bundle, and what must become of it.

use std::path::Path;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};

/// What is shown to the implementations, by the bundle of one trust domain.
#[derive(Clone, Debug)]
pub struct Case {
    /// Begins with the line of the specification that it breaks, e.g. `x_11_client_auth_only`.
    pub name: String,
    pub expect: Expect,
    pub trust_domain: String,
    /// SPIFFE JWKS.
    pub bundle: Value,
    pub input: Input,
}

#[derive(Clone, Debug)]
pub enum Input {
    X509 {
        /// Leaf first.
        chain: Vec<CertificateDer<'static>>,
        /// PKCS#8.
        key: Vec<u8>,
    },
    Jwt {
        token: String,
        audience: String,
    },
    /// The bundle itself.
    Bundle,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    Accept,
    Refuse,
}

impl Case {
    pub fn kind(&self) -> &'static str {
        match self.input {
            Input::X509 { .. } => "x509",
            Input::Jwt { .. } => "jwt",
            Input::Bundle => "bundle",
        }
    }

    /// As the judges that are programs read it.
    fn json(&self) -> Value {
        let mut case = json!({
            "name": self.name,
            "kind": self.kind(),
            "expect": self.expect.word(),
            "trustDomain": self.trust_domain,
            "bundle": self.bundle,
        });
        match &self.input {
            Input::X509 { chain, key } => {
                case["chain"] = chain.iter().map(|der| STANDARD.encode(der)).collect();
                case["key"] = STANDARD.encode(key).into();
            }
            Input::Jwt { token, audience } => {
                case["token"] = token.as_str().into();
                case["audience"] = audience.as_str().into();
            }
            Input::Bundle => {}
        }
        case
    }
}

impl Expect {
    pub fn word(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Refuse => "refuse",
        }
    }
}

/// Writes the cases as one JSON list.
///
/// # Errors
/// If the file cannot be written.
pub fn write(cases: &[Case], file: &Path) -> anyhow::Result<()> {
    let list: Vec<_> = cases.iter().map(Case::json).collect();
    std::fs::write(file, serde_json::to_vec_pretty(&list)?).with_context(|| format!("{}", file.display()))
}

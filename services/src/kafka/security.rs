//! TLS and SASL of a broker.

use std::fmt;
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

use crate::place::Place;
use crate::{Error, Result};

const MECHANISMS: &str = "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER";

/// What a broker's secure listener asks of clients. It takes PLAIN, SCRAM-SHA-256 and SCRAM-SHA-512
/// with one user and password, and OAUTHBEARER with an unsecured token of any subject. The
/// certificate is for `127.0.0.1` and `localhost`, signed by an authority of this test alone.
#[derive(Clone)]
pub struct Security {
    user: String,
    password: String,
    authority: String,
    /// The broker's private key and certificate.
    broker: String,
}

impl Security {
    pub(crate) fn generate() -> Result<Self> {
        let word = || -> String {
            std::iter::repeat_with(fastrand::alphanumeric)
                .take(20)
                .collect()
        };
        let (authority, broker) = certificates().map_err(Error::doing("a certificate"))?;
        Ok(Self {
            user: format!("user-{}", word()),
            password: word(),
            authority,
            broker,
        })
    }

    /// The one user.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Its password.
    #[must_use]
    pub fn password(&self) -> &str {
        &self.password
    }

    /// The certificate of the authority to trust, in PEM.
    #[must_use]
    pub fn authority_pem(&self) -> &str {
        &self.authority
    }

    /// The server's private key and certificate, in PEM.
    pub(crate) fn server_pem(&self) -> &str {
        &self.broker
    }

    /// The SCRAM credentials, for Kafka's tool for formatting.
    pub(super) fn users(&self) -> Vec<String> {
        ["SCRAM-SHA-256", "SCRAM-SHA-512"]
            .map(|mechanism| {
                format!(
                    "{mechanism}=[name={},password={}]",
                    self.user, self.password
                )
            })
            .to_vec()
    }

    /// The properties of the listener called `name`; writes the key store.
    pub(super) fn properties(&self, name: &str, place: &Place) -> Result<String> {
        let keys = place.write("broker.pem", &self.broker)?;
        let modules = [
            (
                "plain",
                format!(
                    "plain.PlainLoginModule required user_{}=\"{}\"",
                    self.user, self.password
                ),
            ),
            (
                "scram-sha-256",
                "scram.ScramLoginModule required".to_owned(),
            ),
            (
                "scram-sha-512",
                "scram.ScramLoginModule required".to_owned(),
            ),
            (
                "oauthbearer",
                "oauthbearer.OAuthBearerLoginModule required \
                 unsecuredLoginStringClaim_sub=\"broker\""
                    .to_owned(),
            ),
        ];
        let mut text = format!(
            "listener.name.{name}.ssl.keystore.type=PEM\n\
             listener.name.{name}.ssl.keystore.location={}\n\
             listener.name.{name}.sasl.enabled.mechanisms={MECHANISMS}\n",
            keys.display()
        );
        for (mechanism, module) in modules {
            let _ = writeln!(
                text,
                "listener.name.{name}.{mechanism}.sasl.jaas.config=\
                 org.apache.kafka.common.security.{module};"
            );
        }
        Ok(text)
    }
}

impl fmt::Debug for Security {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Security")
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// An authority's certificate; a broker's private key and certificate. In PEM.
fn certificates() -> Result<(String, String), rcgen::Error> {
    let authority_key = KeyPair::generate()?;
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    authority
        .distinguished_name
        .push(DnType::CommonName, "Streams test authority");
    let authority_pem = authority.self_signed(&authority_key)?.pem();

    let key = KeyPair::generate()?;
    let mut broker = CertificateParams::new(vec!["localhost".to_owned()])?;
    broker
        .subject_alt_names
        .push(SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)));
    broker
        .distinguished_name
        .push(DnType::CommonName, "Streams test broker");
    broker.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    broker.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let certificate = broker.signed_by(&key, &Issuer::new(authority, authority_key))?;
    Ok((authority_pem, key.serialize_pem() + &certificate.pem()))
}

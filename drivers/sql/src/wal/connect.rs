//! The replication connection: where it goes.

use percent_encoding::percent_decode_str;
use pgwire_replication::{ReplicationConfig, SslMode, TlsConfig};
use sqlx::ConnectOptions as _;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use streams_core::{Error, Result};

use crate::DRIVER;

/// What the client of the replication protocol takes, from what sqlx does.
///
/// # Errors
/// `InvalidConfig` for what it cannot do.
pub(super) fn config(
    options: &PgConnectOptions,
    slot: &str,
    publication: &str,
) -> Result<ReplicationConfig> {
    // Passwords and certificates are only in the URL. The names are put out of it, as sqlx does not
    // encode them.
    let url = options
        .clone()
        .username("u")
        .host("h")
        .database("d")
        .to_url_lossy();
    let password = percent_decode_str(url.password().unwrap_or_default());
    let password = password
        .decode_utf8()
        .map_err(|_| invalid("the password is not UTF-8; take another one"))?;
    let user = options.get_username();
    let host = match options.get_socket() {
        Some(folder) => folder
            .to_str()
            .ok_or_else(|| invalid("the folder of the socket is not UTF-8"))?,
        None => options.get_host(),
    };
    let database = options.get_database().unwrap_or(user);
    let config = ReplicationConfig::new(host, user, &*password, database, slot, publication);
    let mut config = config
        .with_port(options.get_port())
        .with_application_name(options.get_application_name().unwrap_or("streams-relay"));
    if let Some(options) = options.get_options() {
        config = config.with_options(options);
    }
    if options.get_socket().is_none() {
        config.tls.mode = mode(options.get_ssl_mode())?;
        certificates(
            &mut config.tls,
            url.query_pairs()
                .map(|(name, value)| (name.into_owned(), value.into_owned())),
        )?;
    }
    Ok(config)
}

#[cfg(feature = "wal-tls")]
fn mode(mode: PgSslMode) -> Result<SslMode> {
    Ok(match mode {
        // sqlx takes no TLS for both, as long as the server does not ask for it.
        PgSslMode::Disable | PgSslMode::Allow => SslMode::Disable,
        PgSslMode::Prefer => SslMode::Prefer,
        PgSslMode::Require => SslMode::Require,
        PgSslMode::VerifyCa => SslMode::VerifyCa,
        PgSslMode::VerifyFull => SslMode::VerifyFull,
    })
}

#[cfg(not(feature = "wal-tls"))]
fn mode(mode: PgSslMode) -> Result<SslMode> {
    match mode {
        PgSslMode::Disable | PgSslMode::Allow | PgSslMode::Prefer => Ok(SslMode::Disable),
        PgSslMode::Require | PgSslMode::VerifyCa | PgSslMode::VerifyFull => Err(invalid(
            "TLS for the replication connection needs the feature `wal-tls` of this crate",
        )),
    }
}

fn certificates(
    tls: &mut TlsConfig,
    settings: impl Iterator<Item = (String, String)>,
) -> Result<()> {
    for (name, value) in settings {
        let file = match &*name {
            "sslrootcert" => &mut tls.ca_pem_path,
            "sslcert" => &mut tls.client_cert_pem_path,
            "sslkey" => &mut tls.client_key_pem_path,
            _ => continue,
        };
        // sqlx says of a file that it is one, and else gives the certificate itself.
        let Some(path) = value.strip_prefix("file: ") else {
            return Err(invalid(
                "the replication connection takes certificates from files alone; name the files",
            ));
        };
        *file = Some(path.into());
    }
    Ok(())
}

fn invalid(problem: &str) -> Error {
    Error::invalid_config(problem).driver(DRIVER)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(url: &str) -> Result<ReplicationConfig> {
        config(&url.parse().unwrap(), "slot", "publication")
    }

    #[test]
    fn everything_of_a_url_is_taken_over() {
        let config = of("postgres://us%40er:p%40ss%25w%2Frd@db.example:6543/da%20ta?application_name=me&options=-c%20a=b")
            .unwrap();
        assert_eq!(config.host, "db.example");
        assert_eq!(config.port, 6543);
        assert_eq!(config.user, "us@er");
        assert_eq!(config.password, "p@ss%w/rd");
        assert_eq!(config.database, "da ta");
        assert_eq!(config.application_name.as_deref(), Some("me"));
        assert_eq!(config.options.as_deref(), Some("-c a=b"));
    }

    #[test]
    fn a_socket_is_taken_over() {
        let config = of("postgres:///db?user=u&host=/var/run/postgresql&port=5433&sslmode=require");
        let config = config.unwrap();
        assert_eq!(
            config.unix_socket_path().to_str(),
            Some("/var/run/postgresql/.s.PGSQL.5433")
        );
        assert_eq!(config.tls.mode, SslMode::Disable);
    }

    #[test]
    fn certificates_are_files() {
        let of = |options| config(&options, "slot", "publication");
        let options = || PgConnectOptions::new_without_pgpass().ssl_mode(PgSslMode::Prefer);
        let files = options()
            .ssl_root_cert("/ca.pem")
            .ssl_client_cert("/cert.pem")
            .ssl_client_key("/key.pem");
        let tls = of(files).unwrap().tls;
        assert_eq!(tls.ca_pem_path, Some("/ca.pem".into()));
        assert_eq!(tls.client_cert_pem_path, Some("/cert.pem".into()));
        assert_eq!(tls.client_key_pem_path, Some("/key.pem".into()));
        let pem = b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----".to_vec();
        let error = of(options().ssl_root_cert_from_pem(pem)).unwrap_err();
        assert_eq!(error.kind(), streams_core::ErrorKind::InvalidConfig);
    }

    #[cfg(feature = "wal-tls")]
    #[test]
    fn tls_is_taken_over() {
        let config = of("postgres://u@db/d?sslmode=verify-full&sslrootcert=/ca.pem").unwrap();
        assert_eq!(config.tls.mode, SslMode::VerifyFull);
        assert_eq!(config.tls.ca_pem_path, Some("/ca.pem".into()));
    }

    #[cfg(not(feature = "wal-tls"))]
    #[test]
    fn tls_without_its_feature_is_refused() {
        let error = of("postgres://u@db/d?sslmode=require").unwrap_err();
        assert!(error.to_string().contains("wal-tls"), "{error}");
    }
}

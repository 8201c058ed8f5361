//! The connection by URL.

use std::time::Duration;

use streams_core::{DriverUrl, Error, Result};

use crate::{DRIVER, DynamoDb, DynamoDbBuilder};

const PARAMETERS: [&str; 3] = ["region", "endpoint", "request_timeout_ms"];

impl DynamoDb {
    /// A connection as a URL names it: `dynamodb:?region=eu-west-1`, with `endpoint` and
    /// `request_timeout_ms` as further parameters. An access key goes before the `?`, as in
    /// `dynamodb://id:secret@?region=eu-west-1`; it is better left to the environment.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// use streams_dynamodb::DynamoDb;
    ///
    /// DynamoDb::from_url("dynamodb:?region=eu-west-1").await?;
    /// let error = DynamoDb::from_url("dynamodb:?regoin=eu-west-1").await.unwrap_err();
    /// assert!(error.to_string().contains("regoin"));
    /// # Ok::<(), streams_core::Error>(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// [`InvalidConfig`](streams_core::ErrorKind::InvalidConfig), which shows nothing that may be
    /// secret.
    pub async fn from_url(url: &str) -> Result<Self> {
        builder(&DriverUrl::parse(url)?)?.build().await
    }
}

fn builder(url: &DriverUrl) -> Result<DynamoDbBuilder> {
    let bad = |what: &str| Err(Error::invalid_config(what).driver(DRIVER));
    let path = url.path().trim_matches('/');
    if url.scheme() != "dynamodb" || !url.hosts().is_empty() || !path.is_empty() {
        return bad(
            "the URL of DynamoDB has another scheme, a host or a path; write it as \
             `dynamodb:?region=eu-west-1`, and an endpoint as `&endpoint=https://...`",
        );
    }
    let mut parameters = url.parameters().map(|(name, _)| name);
    if let Some(name) = parameters.find(|name| !PARAMETERS.contains(name)) {
        let known = PARAMETERS.join(", ");
        return bad(&format!(
            "the URL of DynamoDB has no parameter `{name}`; it takes {known}"
        ));
    }
    let mut this = DynamoDbBuilder::new();
    if let Some(region) = url.parameter("region") {
        this = this.region(region);
    }
    if let Some(endpoint) = url.parameter("endpoint") {
        this = this.endpoint(endpoint);
    }
    if let Some(value) = url.parse_parameter("request_timeout_ms")? {
        this = this.request_timeout(Duration::from_millis(value));
    }
    match (url.user(), url.password()) {
        (Some(id), Some(secret)) => Ok(this.access_key(id, secret)),
        (None, None) => Ok(this),
        _ => bad(
            "the URL of DynamoDB has half an access key; write both, as `dynamodb://id:secret@`, or \
             leave it to the environment",
        ),
    }
}

#[cfg(test)]
mod tests {
    use streams_core::ErrorKind;

    use super::*;

    #[tokio::test]
    async fn urls_open_or_say_what_is_wrong() {
        for good in [
            "dynamodb:?region=eu-west-1",
            "dynamodb://id:s3cret@?region=eu-west-1&endpoint=http%3A%2F%2F127.0.0.1%3A8000",
            "dynamodb:?region=eu-west-1&request_timeout_ms=500",
        ] {
            DynamoDb::from_url(good).await.unwrap();
        }
        for bad in [
            "sqs:?region=eu-west-1",
            "dynamodb://host?region=eu-west-1",
            "dynamodb://id@?region=eu-west-1",
            "dynamodb:table?region=eu-west-1",
            "dynamodb:?region=eu-west-1&request_timeout_ms=0",
            "dynamodb:?region=eu-west-1&request_timeout_ms=soon",
            "dynamodb://id:s3cret@?secret=s3cret",
        ] {
            let error = DynamoDb::from_url(bad).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{bad}");
            assert!(!format!("{error:?}").contains("s3cret"), "{error:?}");
        }
    }
}

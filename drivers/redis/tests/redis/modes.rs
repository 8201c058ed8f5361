//! One server, TLS with a user, a cluster, sentinels: by URL.

use std::time::Duration;

use streams_core::{Driver as _, DriverRegistry, ErrorKind, SettleAction};
use streams_redis::{Redis, RedisDeduplication};
use streams_services::{RedisCluster, RedisSentinel};

use crate::support::{GROUP, LEASE, Test, handle, numbers, settle, take, until};

/// Connects, writes, reads, gives back, schedules and deduplicates.
async fn works(test: &Test) {
    test.driver().connect().await.unwrap();
    test.write(&test.messages(20)).await;
    let mut reader = test.member().await;
    assert_eq!(handle(&mut *reader, 10).await, numbers(0..10));
    let held = take(&mut *reader, 10).await;
    let retry = SettleAction::Retry {
        after: Some(Duration::from_millis(50)),
    };
    settle(&mut *reader, held, retry).await;
    assert_eq!(handle(&mut *reader, 10).await, numbers(10..20));
    let soon = std::time::SystemTime::now() + Duration::from_millis(100);
    test.driver()
        .writer()
        .write_at(&[test.message("later")], soon)
        .await
        .unwrap();
    assert_eq!(handle(&mut *reader, 1).await, ["later"]);
    let mut alone = test.read(&test.options()).await;
    assert_eq!(handle(&mut *alone, 21).await.len(), 21);
    reader.close().await.unwrap();
    test.driver().delete_stream(&test.stream).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_and_a_user_that_may_do_only_what_the_documentation_says() {
    let (recipe, server) = tokio::task::spawn_blocking(|| {
        let recipe = streams_services::Redis::new().secure().unwrap();
        let server = recipe.clone().start().unwrap();
        (recipe, server)
    })
    .await
    .unwrap();
    let security = recipe.security().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, security.authority_pem()).unwrap();
    let (user, password, ca) = (security.user(), security.password(), ca.display());
    let address = server.address();
    works(&Test::at(&format!(
        "rediss://{user}:{password}@{address}?ca_file={ca}"
    )))
    .await;

    let wrong = Test::at(&format!("rediss://{user}:wrong@{address}?ca_file={ca}"));
    let error = wrong
        .driver()
        .writer()
        .write(&wrong.messages(1))
        .await
        .unwrap_err();
    assert_eq!(
        error.failures()[0].1.kind(),
        ErrorKind::Permission,
        "{error}"
    );
    let error = wrong.driver().connect().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Permission, "{error}");
    let unknown = Test::at(&format!("rediss://{user}:{password}@{address}"));
    let error = unknown.driver().writer().write(&unknown.messages(1)).await;
    assert!(error.is_err(), "the system does not know the authority");
    let elsewhere = Test::at(&format!(
        "rediss://{user}:{password}@{address}?ca_file={ca}"
    ));
    let elsewhere = elsewhere.builder().prefix("elsewhere:").build().unwrap();
    let message = streams_core::Message::builder("a")
        .data("x")
        .build()
        .unwrap();
    let error = elsewhere.writer().write(&[message]).await.unwrap_err();
    assert_eq!(
        error.failures()[0].1.kind(),
        ErrorKind::Permission,
        "{error}"
    );
}

#[tokio::test]
async fn the_rights_for_groups_that_are_shared_with_pulse_are_enough_and_not_needed_otherwise() {
    const ALL: &str =
        "+@stream +@scripting +@connection +@read +@write +time ~pulse:stream:* ~streams:*";
    const SHARED: &str = "+publish ~map:sink:* &map:sink:*";
    let (admin, _server) = Test::own(streams_services::Redis::new()).await;
    let command = |words: &str| {
        redis::Cmd::new()
            .arg(words.split(' ').collect::<Vec<_>>())
            .clone()
    };
    let table = command(&format!("HLEN map:sink:{GROUP}:keepalive:content"));
    for (user, rights, entered) in [("few", "", 0), ("more", SHARED, 3)] {
        let rights = format!("ACL SETUSER {user} on >secret {ALL} {rights}");
        let _: () = admin.ask(&command(rights.trim())).await;
        let test = Test::at(&admin.url.replace("://", &format!("://{user}:secret@")));
        works(&test).await;
        let _member = test.member().await;
        // The member, what is parked, and a revision.
        assert_eq!(admin.ask::<u32>(&table).await, entered, "{user}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_with_streams_on_all_nodes() {
    let cluster = tokio::task::spawn_blocking(|| RedisCluster::start(3).unwrap());
    let cluster = cluster.await.unwrap();
    // One node is enough to find the others.
    let url = format!("redis+cluster://{}", cluster.addresses()[0]);
    for _ in 0..6 {
        works(&Test::at(&url)).await;
    }
    // Names with tags of their own, and many streams in one batch and one subscription.
    let mut tagged = Test::at(&url);
    tagged.stream = format!("{{shop}}.{}", tagged.stream);
    works(&tagged).await;
    let tests: Vec<_> = (0..6).map(|_| Test::at(&url)).collect();
    let batch: Vec<_> = tests.iter().flat_map(|test| test.messages(5)).collect();
    let driver = tests[0]
        .builder()
        .idempotent(Duration::from_secs(60))
        .max_len(100);
    driver
        .build()
        .unwrap()
        .writer()
        .write(&batch)
        .await
        .unwrap();
    let set = streams_redis::StreamSet::new();
    let mut options = tests[0].in_group();
    options
        .driver
        .insert(streams_redis::RedisOptions::new().streams(&set));
    let mut reader = tests[0].read(&options).await;
    for test in &tests[1..] {
        set.add(&test.stream).unwrap();
    }
    assert_eq!(handle(&mut *reader, 30).await.len(), 30);
    reader.close().await.unwrap();
    let storage = RedisDeduplication::new(&tests[0].driver());
    for message in &batch {
        use streams_core::DeduplicationStorage as _;
        let claim = storage.claim("a", message.id(), LEASE).await.unwrap();
        assert!(matches!(claim, streams_core::Claim::Acquired(_)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_fails_is_followed_by_what_the_sentinel_names() {
    let sentinel = tokio::task::spawn_blocking(|| RedisSentinel::start().unwrap());
    let sentinel = sentinel.await.unwrap();
    let (address, service) = (sentinel.address(), RedisSentinel::SERVICE);
    let test = Test::at(&format!("redis+sentinel://{address}/{service}/0"));
    works(&test).await;
    let mut reader = test.member().await;
    let writer = test.driver().writer();
    writer.write(&test.messages(10)).await.unwrap();
    let replica = Test::at(&sentinel.servers()[1].url());
    until("the replica has it all", async || {
        let mut len = redis::Cmd::new();
        len.arg("XLEN").arg(test.key());
        replica.ask::<u32>(&len).await == 10
    })
    .await;
    assert_eq!(handle(&mut *reader, 5).await, numbers(0..5));
    sentinel.servers()[0].kill();
    until("the new master takes writes", async || {
        writer.write(&[test.message("after")]).await.is_ok()
    })
    .await;
    // What the replica did not know to be acknowledged may come again.
    let mut seen = std::collections::HashSet::new();
    let rest: Vec<_> = numbers(5..10)
        .into_iter()
        .chain(["after".to_owned()])
        .collect();
    while !rest.iter().all(|data| seen.contains(data)) {
        seen.extend(handle(&mut *reader, 1).await);
    }
}

#[tokio::test]
async fn a_driver_is_opened_by_url() {
    let test = Test::shared().await;
    let drivers = DriverRegistry::new().with::<Redis>();
    let url = format!(
        "{}/0?lease_ms=5000&max_len=10&create_streams=false",
        test.url
    );
    let driver = drivers.open(&url).await.unwrap();
    assert!(!driver.writer().capabilities().creates_streams);
    let error = drivers
        .open(&format!("{}?colour=red", test.url))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
}

#[test]
fn urls_that_cannot_be_are_refused_without_their_password() {
    for url in [
        "redis:",
        "redis://",
        "http://host",
        "redis://:secret@host:no",
        "redis://host/first",
        "redis://host/0/1",
        "redis://a:1,b:2",
        "redis+cluster://host/3",
        "redis+sentinel://host",
        "redis+sentinel://host/name/x",
        "redis://host?ca_file=x",
        "rediss://host?certificate_file=x",
        "rediss://:secret@host?ca_file=/none",
        "redis://host?sentinel_user=x",
        "redis://host?ttl_ms=1&sliding_ttl_ms=1",
        "redis://host?lease_ms=soon",
        "redis://:secret@host?colour=red",
        "redis://[::1",
    ] {
        let error = Redis::builder(url).build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{url}");
        assert!(!format!("{error:?}").contains("secret"), "{error:?}");
    }
    for url in [
        "redis://host",
        "redis://[::1]:1/2",
        "redis+sentinel://a,b/name",
        "rediss://u:p@h",
    ] {
        let driver = Redis::builder(url).build().unwrap();
        assert!(!format!("{driver:?}").contains(":p"), "{driver:?}");
    }
}

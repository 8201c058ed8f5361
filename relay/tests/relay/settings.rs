//! Bad settings, good ones, and what is never shown.

use crate::support::{Folder, SECRET, finish, program, refusal};
use streams_relay::Command;

#[test]
fn the_program_says_what_is_wrong_and_what_to_do() {
    const GOOD: [&str; 4] = [
        "--source-url=postgres://me:hunter2@host/db",
        "--destination-url=stdout:",
        "--log-filter=trace",
        "--http-listen=off",
    ];
    #[rustfmt::skip]
    let unknown: &[(&[&str], &str)] = &[
        (&["--sauce-url", SECRET], "there is no flag --sauce-url; --help lists them"),
        (&["-x"], "there is no flag -x; --help lists them"),
        (&[SECRET], "there is an argument that belongs to no flag; all settings are flags such as --destination-url URL"),
        (&["--check=hunter2"], "the flag --check takes no value"),
        (&["--source-table"], "the flag --source-table needs a value"),
        (&["--config"], "the flag --config needs a value"),
        (&["--config", "/no/such/file"],
            "the configuration /no/such/file cannot be read: No such file or directory (os error 2); check --config or STREAMS_RELAY_CONFIG"),
        (&["--source-url=postgres://me:hunter2@host:port/db"],
            "`source.url` is not a URL of its database; write postgres://user:password@host:5432/database, with special \
             characters as %XX, and see the README for its parameters"),
        (&["--destination-url=stdout:hunter2"],
            "`destination.url` is wrong: stdout: the URL of standard output is `stdout:`, with nothing after it"),
        (&["--source-table=a; DROP TABLE b"],
            "`source.table` is wrong: sql: the name of a table has characters that are not allowed; take letters, digits and \
             underscores, not beginning with a digit, at most 48, as in `streams_egress` or `events.streams_egress` \
             (table=\"a; DROP TABLE b\")"),
        (&["--relay-lease=1ms"],
            "`[relay]` is wrong: sql: `lease` must be at least 300 ms, and at most 100 years (of a WAL relay: twice `write_limit`)"),
        (&["--source-url=sqlite:a", "--source-mode=wal"],
            "`source.mode` in the flag --source-mode is wal, but only PostgreSQL has a write-ahead log to read; take poll"),
        (&["--source-url=sqlite:a", "--source-mode=streams"],
            "`source.mode` in the flag --source-mode is streams, but only DynamoDB has streams to read; take poll"),
        (&["--source-url=sqlite:a", "--dynamodb-partitions=2"],
            "`dynamodb.partitions` in the flag --dynamodb-partitions is of no use with this `source.url`; leave it out"),
        (&["--source-url=dynamodb:?region=a", "--source-connections=4"],
            "`source.connections` in the flag --source-connections is of no use with this `source.url`; leave it out"),
        (&["--source-url=dynamodb://id:hunter2@?regoin=a"],
            "`source.url` is wrong: dynamodb: the URL of DynamoDB has no parameter `regoin`; it takes region, endpoint, \
             request_timeout_ms"),
    ];
    for (settings, said) in unknown {
        assert_eq!(refusal(&[&GOOD[..], settings].concat()), *said);
    }

    const DURATION: &str =
        "is no duration above 0; give one with its unit, such as 500ms, 30s or 7d";
    const RANGE: &str =
        "is no range of durations; give the shortest and the longest, as in 100ms..30s";
    const SIZE: &str = "is no size above 0; give a number of bytes, or one with KiB, MiB or GiB";
    const DATABASE: &str = "begins with no database that this program knows; write \
        postgres://user:password@host/database, mysql://user:password@host/database, \
        sqlite://file, dynamodb:?region=eu-west-1 or redis://user:password@host";
    #[rustfmt::skip]
    let wrong: &[(&str, &str, &str)] = &[
        ("source.url", SECRET, DATABASE),
        ("source.url", "oracle://me:hunter2@host", DATABASE),
        ("source.mode", "tail", "is none of its values; take poll or wal or streams"),
        ("source.connections", "2", "is no whole number from 3 to 1000; give one"),
        ("source.connections", "many", "is no whole number from 3 to 1000; give one"),
        ("source.connect_timeout", "10", DURATION),
        ("relay.rows", "0", "is no whole number from 1 to 5000; give one"),
        ("relay.rows", "-1", "is no whole number from 1 to 5000; give one"),
        ("relay.bytes", "4 apples", SIZE),
        ("relay.bytes", "0", SIZE),
        ("relay.bytes", "99999999999GiB", SIZE),
        ("relay.lease", "0s", DURATION),
        ("relay.attempts", "0", "is no whole number from 1 to 1000000; give one"),
        ("relay.row_backoff", "1s", RANGE),
        ("relay.row_backoff", "2s..1s", RANGE),
        ("relay.destination_backoff", "1s..", RANGE),
        ("relay.deferred", "0", "is no whole number from 1 to 10000000; give one"),
        ("relay.poll_interval", "x..y", RANGE),
        ("relay.listen", "yes", "is none of its values; take true or false"),
        ("relay.keep", "never", DURATION),
        ("wal.slot", "mine", "is of no use in this `source.mode`; leave it out, or take the other mode"),
        ("http.listen", "localhost", "is no address; give an IP address with a port such as 127.0.0.1:9465, or off"),
        ("log.format", "xml", "is none of its values; take text or json"),
        ("log.filter", "streams=loud",
            "is no filter; give a level (error, warn, info, debug, trace), or levels of parts, as in info,streams_sql=debug"),
        ("stop.deadline", "soon", DURATION),
    ];
    for (name, value, said) in wrong {
        let flag = name.replace(['.', '_'], "-");
        let setting = format!("--{flag}={value}");
        let expected = format!("`{name}` in the flag --{flag} {said}");
        assert_eq!(refusal(&[&GOOD[..], &[&setting]].concat()), expected);
    }
    for (name, value) in [
        ("relay.listen", "true"),
        ("relay.poll_interval", "1s..2s"),
        ("wal.manage", "perhaps"),
    ] {
        let flag = name.replace(['.', '_'], "-");
        let setting = format!("--{flag}={value}");
        let why = match name {
            "wal.manage" => "is none of its values; take true or false",
            _ => "is of no use in this `source.mode`; leave it out, or take the other mode",
        };
        let settings = [&GOOD[..], &["--source-mode=wal", &setting]].concat();
        assert_eq!(
            refusal(&settings),
            format!("`{name}` in the flag --{flag} {why}")
        );
    }

    for (name, given) in [("source", &[][..]), ("destination", &GOOD[..1])] {
        let variable = format!("STREAMS_RELAY_{}_URL", name.to_uppercase());
        assert_eq!(
            refusal(given),
            format!(
                "`{name}.url` is not set; set it in the file, as {variable} or with --{name}-url"
            )
        );
    }
}

/// Of Redis.
#[cfg(feature = "redis")]
#[test]
fn streams_that_are_wrong_are_refused() {
    const SOURCE: &str = "--source-url=redis://me:hunter2@host";
    const USELESS: &str = "is of no use with this `source.url`; leave it out";
    #[rustfmt::skip]
    let table: &[(&[&str], &str)] = &[
        (&[SOURCE],
            "`redis.streams` is not set; set it in the file, as STREAMS_RELAY_REDIS_STREAMS or with --redis-streams"),
        (&[SOURCE, "--redis-streams=a,,b"],
            "`redis.streams` in the flag --redis-streams has a name that no stream can have; give names with commas \
             between them, as in orders, payments"),
        (&[SOURCE, "--redis-streams=a, b,a"],
            "`redis.streams` in the flag --redis-streams has a name twice; leave one out"),
        (&[SOURCE, "--redis-streams=a", "--redis-group="],
            "`redis.group` in the flag --redis-group cannot be the name of a group; take one without white space and \
             any of *?[]"),
        (&["--source-url=redis://me:hunter2@host?lease_ms=2000", "--redis-streams=a"],
            "`source.url` has the parameter `lease_ms`; set `relay.lease` instead"),
        (&["--source-url=redis://me:hunter2@host?speed=hunter2", "--redis-streams=a"],
            "`source.url` or `relay.lease` is wrong: redis: the URL has the parameter `speed`, which is not known; there \
             are prefix, "),
        (&["--source-url=redis+sentinel://me:hunter2/3@host", "--redis-streams=a"],
            "`source.url` is wrong: the driver URL has a port that is no number, or a `@` in its path; write special \
             characters of user and password as %XX"),
        (&["--source-url=redis+pigeon://me:hunter2@host", "--redis-streams=a"],
            "`source.url` or `relay.lease` is wrong: redis: the URL's scheme is `redis+pigeon`; use one of redis, "),
        (&[SOURCE, "--redis-streams=a", "--relay-lease=100ms"],
            "`source.url` or `relay.lease` is wrong: redis: the lease is too short to be kept up; use 500 ms or more, "),
        (&[SOURCE, "--redis-streams=a", "--destination-url=redis://you:hunter2@host/0"],
            "`source.url` and `destination.url` are the same place, where every message would come again; name another, \
             or give the destination a `prefix` of its own"),
        (&["--source-url=sqlite:a", "--destination-url=redis+sentinel://me:hunter2/3@host"],
            "`destination.url` is wrong: the driver URL has a port that is no number, or a `@` in its path; "),
        (&["--source-url=sqlite:a", "--destination-url=redis://me:hunter2@host?speed=hunter2"],
            "`destination.url` is wrong: the driver `redis` has no URL parameter `speed`; it takes prefix, "),
    ];
    for (settings, start) in table {
        let said = refusal(&[&["--destination-url=stdout:"], *settings].concat());
        assert!(said.starts_with(start), "{said}");
    }
    for (name, value) in [
        ("source-table", "a"),
        ("source-mode", "poll"),
        ("source-connections", "4"),
        ("source-connect-timeout", "1s"),
        ("relay-deferred", "10"),
        ("relay-poll-interval", "1s..2s"),
        ("relay-listen", "true"),
        ("relay-keep", "7d"),
        ("wal-slot", "mine"),
        ("dynamodb-partitions", "2"),
    ] {
        let setting = format!("--{name}={value}");
        let destination = "--destination-url=stdout:";
        let said = refusal(&[SOURCE, "--redis-streams=a", destination, &setting]);
        let end = format!(" in the flag --{name} {USELESS}");
        assert!(said.ends_with(&end), "{said}");
    }
    let said = refusal(&[
        "--source-url=sqlite:a",
        "--destination-url=stdout:",
        "--redis-group=a",
    ]);
    assert_eq!(
        said,
        format!("`redis.group` in the flag --redis-group {USELESS}")
    );
}

#[test]
fn the_program_says_what_is_wrong_in_a_file_and_where() {
    #[rustfmt::skip]
    let table: &[(&str, &str)] = &[
        ("[source]\nurl = \"postgres://me:hunter2@host", 
            "the configuration FILE is not TOML in line 2: invalid basic string, expected `\"`"),
        ("[source]\nurl = 'a'\nurl = 'hunter2'", 
            "the configuration FILE is not TOML in line 3: duplicate key"),
        ("[source]\nuri = 'hunter2'", 
            "the configuration FILE has `source.uri`, which is no setting; there are source.url, source.table, source.mode, source.connections, source.connect_timeout"),
        ("[sauce]\nurl = 'hunter2'", 
            "the configuration FILE has `sauce`, which is no section; there are [source], [relay], [wal], [dynamodb], [redis], [destination], [http], [log], [stop]"),
        ("source = 'hunter2'", 
            "the configuration FILE has `source` as a value; it is a section: write [source] and its keys below"),
        ("[source]\nurl = ['hunter2']", 
            "the configuration FILE has `source.url` as array; it takes URL"),
        ("[relay]\nrows = 1.5", 
            "the configuration FILE has `relay.rows` as float; it takes N"),
        ("[relay]\nrows = 0\n[source]\nurl='sqlite:hunter2'\n[destination]\nurl='stdout:'", 
            "`relay.rows` in FILE is no whole number from 1 to 5000; give one"),
    ];
    for (text, said) in table {
        let folder = Folder::new();
        let file = folder.file(text).display().to_string();
        assert_eq!(refusal(&["--config", &file]).replace(&file, "FILE"), *said);
    }
}

#[test]
fn the_program_says_which_variable_is_wrong() {
    let table = [
        (
            "STREAMS_RELAY_SOURCE_URI",
            SECRET,
            "there is no variable STREAMS_RELAY_SOURCE_URI; --help lists them",
        ),
        (
            "STREAMS_RELAY_RELAY_ROWS",
            "0",
            "`relay.rows` in the variable STREAMS_RELAY_RELAY_ROWS is no whole number from 1 to 5000; give one",
        ),
        (
            "STREAMS_RELAY_CONFIG",
            "/no/such/file",
            "the configuration /no/such/file cannot be read: No such file or directory (os error 2); check --config or STREAMS_RELAY_CONFIG",
        ),
    ];
    for (name, value, said) in table {
        let mut relay = program(&[("source-url", "sqlite:a"), ("destination-url", "stdout:")]);
        relay.env(name, value);
        // What Kubernetes sets for a service of this name.
        relay.env("STREAMS_RELAY_SERVICE_HOST", "10.0.0.1");
        relay.env("STREAMS_RELAY_SERVICE_PORT_METRICS", "9465");
        relay.env("STREAMS_RELAY_PORT", "tcp://10.0.0.1:9465");
        relay.env("STREAMS_RELAY_PORT_9465_TCP_ADDR", "10.0.0.1");
        let (code, output, errors) = finish(relay);
        assert_eq!((code, output.as_str()), (Some(2), ""));
        assert_eq!(errors, format!("error: {said}\n"));
    }
}

/// What is set of higher precedence wins, also over what is wrong.
#[test]
fn flags_win_over_variables_and_those_over_the_file() {
    let folder = Folder::new();
    let file = folder.file(
        "[source]\nurl = 'file'\ntable = 'of_the_file'\n[log]\nfilter = 'debug'\n\
         [destination]\nurl = 'stdout:'\n[relay]\nlisten = false",
    );
    let variables = [
        ("STREAMS_RELAY_CONFIG", file.to_str().unwrap()),
        ("STREAMS_RELAY_SOURCE_URL", "variable"),
        ("STREAMS_RELAY_SOURCE_TABLE", "of_the_variable"),
        ("OTHER", "x"),
    ];
    let flags = ["--source-url=sqlite:hunter2"];
    let command = Command::read(
        flags.map(Into::into),
        variables.map(|(name, value)| (name.into(), value.into())),
    );
    let shown = format!("{:?}", command.unwrap());
    assert!(shown.contains("Sqlite"), "{shown}");
    assert!(shown.contains("of_the_variable"), "{shown}");
    assert!(shown.contains("\"debug\""), "{shown}");
    assert!(shown.contains("listen: false"), "{shown}");
    assert!(!shown.contains(SECRET), "{shown}");
}

/// The README's files, as they are; and the help has every setting of them.
#[test]
fn the_examples_of_the_readme_are_right() {
    let readme = include_str!("../../README.md");
    let examples: Vec<_> = readme
        .split("```toml\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap())
        .collect();
    let [all, wal, dynamodb, redis] = examples[..] else {
        panic!("{examples:?}");
    };
    let folder = Folder::new();
    let read = |text: &str| {
        let file = folder.file(text);
        Command::read(["--config".into(), file.into()], []).unwrap()
    };
    let Command::Run(config) = read(all) else {
        panic!("it runs");
    };
    // They are the defaults, but for the URLs.
    let urls = [
        "--source-url",
        "postgres://a",
        "--destination-url",
        "kafka://a",
    ];
    let Command::Run(defaults) = Command::read(urls.map(Into::into), []).unwrap() else {
        panic!("it runs");
    };
    assert_eq!(format!("{config:?}"), format!("{defaults:?}"));

    let wal =
        format!("{wal}[source]\nurl='postgres://a'\nmode='wal'\n[destination]\nurl='stdout:'");
    assert!(format!("{:?}", read(&wal)).contains("Wal"));
    let dynamodb = format!(
        "{dynamodb}[source]\nurl='dynamodb:?region=a'\nmode='streams'\n[destination]\nurl='stdout:'"
    );
    assert!(format!("{:?}", read(&dynamodb)).contains("Streams"));
    let redis = format!("{redis}[source]\nurl='redis://a'\n[destination]\nurl='stdout:'");
    let shown = format!("{:?}", read(&redis));
    assert!(
        !cfg!(feature = "redis") || shown.contains("orders"),
        "{shown}"
    );

    let Command::Print(help) = Command::read(["--help".into()], []).unwrap() else {
        panic!("it prints");
    };
    let mut settings = 0;
    for example in examples {
        let mut section = "";
        for line in example.lines() {
            if let Some(name) = line.strip_prefix('[') {
                section = name.trim_end_matches(']');
            } else if let Some((key, _)) = line.split_once(" = ") {
                let flag = format!("  --{section}-{} ", key.replace('_', "-"));
                assert!(help.contains(&flag), "{flag}");
                settings += 1;
            }
        }
    }
    let flags = help.lines().filter(|line| line.starts_with("  --"));
    assert_eq!(settings, flags.count());
}

#[test]
fn help_and_version_are_printed() {
    for (flag, start) in [("--help", "Moves the messages"), ("-V", "streams-relay ")] {
        let mut help = program(&[]);
        help.arg(flag);
        let (code, output, _) = finish(help);
        assert_eq!(code, Some(0));
        assert!(output.starts_with(start), "{output}");
    }
}

//! What is written about the servers is what there is.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use saphyr::{LoadableYamlNode, Yaml};
use streams_services::Service;

fn read(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// `variable=value` of all words that look so.
fn assignments(text: &str) -> BTreeMap<&str, &str> {
    let words = text.split(|letter: char| letter.is_whitespace() || letter == '`' || letter == ',');
    words
        .filter(|word| word.starts_with("STREAMS_"))
        .filter_map(|word| word.split_once('='))
        .collect()
}

fn variables() -> BTreeSet<&'static str> {
    let services = Service::ALL.iter();
    services
        .flat_map(|service| service.variables())
        .copied()
        .collect()
}

#[test]
fn the_table_has_every_server_with_its_variables() {
    let readme = read("README.md");
    for service in Service::ALL {
        let beginning = format!("| `{}` |", service.name());
        let row = readme.lines().find(|line| line.starts_with(&beginning));
        let row = row.unwrap_or_else(|| panic!("README.md: no row `{}`", service.name()));
        let named: BTreeSet<_> = assignments(row).into_keys().collect();
        assert_eq!(named, service.variables().iter().copied().collect());
    }
    let named: BTreeSet<_> = assignments(&readme).into_keys().collect();
    assert_eq!(named, variables());
}

#[test]
fn compose_has_every_server_where_its_variables_say() {
    let text = read("../compose.yaml");
    let told = assignments(&text);
    assert_eq!(told.keys().copied().collect::<BTreeSet<_>>(), variables());
    assert_eq!(told, assignments(&read("README.md")));

    let documents = Yaml::load_from_str(&text).unwrap();
    let services = documents[0]["services"].as_mapping().unwrap();
    assert_eq!(services.len(), Service::ALL.len());
    for service in Service::ALL {
        let container = &documents[0]["services"][service.name()];
        let image = container["image"].as_str().unwrap();
        let (_, version) = image.rsplit_once(':').unwrap();
        assert!(
            version.starts_with(|first: char| first.is_ascii_digit() || first == 'v'),
            "{image}"
        );
        assert!(
            !container["healthcheck"]["test"]
                .as_vec()
                .unwrap()
                .is_empty()
        );
        let published = container["ports"].as_vec().unwrap();
        for port in published {
            assert!(port.as_str().unwrap().starts_with("127.0.0.1:"), "{port:?}");
        }
        for variable in service.variables() {
            // `127.0.0.1:9092` of a URL, and of `127.0.0.1:9092:9092`.
            let address = &told[variable][told[variable].find("127.").unwrap()..];
            let address = address.split('/').next().unwrap();
            let is_published = published
                .iter()
                .any(|port| port.as_str().unwrap().starts_with(&format!("{address}:")));
            assert!(is_published, "{variable} says {address}, of {published:?}");
        }
    }
}

#[test]
fn names_are_found_again() {
    for service in Service::ALL {
        assert_eq!(Service::named(service.name()).unwrap(), service);
    }
    let error = Service::named("oracle").unwrap_err().to_string();
    assert!(
        error.contains("oracle") && error.contains("kafka"),
        "{error}"
    );
}

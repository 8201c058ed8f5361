//! Misuse that does not compile, and what the compiler says about it.
#![cfg(feature = "derive")]

/// To accept new messages:
/// `TRYBUILD=overwrite cargo test -p streams-core --all-features --test derive_errors`.
#[test]
fn misuse_is_explained() {
    let cases = trybuild::TestCases::new();
    cases.compile_fail("tests/ui/*.rs");
    // What implements `Handler` is part of the message, and differs with the feature.
    if cfg!(feature = "tower") {
        cases.compile_fail("tests/ui/tower/*.rs");
    }
}

//! One test per case.

/// Makes a `#[test]` of each case of the kit, under the case's name, so that each shows in the list
/// of tests. The argument is an expression of a [`Harness`](crate::Harness); every test evaluates it
/// anew, so an in-memory store is a store of its own in each.
///
/// A case that does not apply passes and prints why. Tests run at the same time: a harness whose
/// hooks restart a server or cut a network that other tests use goes through
/// [`run`](crate::run), which runs those cases alone.
///
/// ```no_run
/// # struct MyHarness;
/// mod conformance {
///     streams_testkit::conformance!(super::MyHarness::new());
/// }
/// ```
#[macro_export]
macro_rules! conformance {
    ($harness:expr) => {
        $crate::__each_case!([$harness] __tests);
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __tests {
    ([$harness:expr] $($case:ident)*) => {
        $(
            #[test]
            fn $case() {
                $crate::run_case($harness, stringify!($case));
            }
        )*
    };
}

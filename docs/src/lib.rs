//! The code blocks of the project's Markdown files, as tests. Nothing else is in here.

/// `README.md`
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;

/// `CONTRIBUTING.md`
#[cfg(doctest)]
#[doc = include_str!("../../CONTRIBUTING.md")]
pub struct Contributing;

/// `docs/architecture.md`
#[cfg(doctest)]
#[doc = include_str!("../architecture.md")]
pub struct Architecture;

/// `docs/coming-from-go.md`
#[cfg(doctest)]
#[doc = include_str!("../coming-from-go.md")]
pub struct ComingFromGo;

/// `docs/delayed-delivery.md`
#[cfg(doctest)]
#[doc = include_str!("../delayed-delivery.md")]
pub struct DelayedDelivery;

/// `docs/performance.md`
#[cfg(doctest)]
#[doc = include_str!("../performance.md")]
pub struct Performance;

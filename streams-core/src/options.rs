//! Options that only one driver knows.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::driver::AnyDriver;
use crate::{Error, Result};

/// A driver's own subscription options: a plain struct.
///
/// Implement [`OptionFor`] too, for the driver it belongs to, so that giving it to another driver
/// does not compile.
pub trait DriverOptions: Any + Send + Sync + fmt::Debug {
    /// The driver that understands it, as in [`Capabilities::driver`](crate::Capabilities::driver).
    const DRIVER: &'static str;
}

/// Says that the options `Self` are understood by the driver `D`.
#[diagnostic::on_unimplemented(
    message = "the driver `{D}` has no options of type `{Self}`",
    label = "these options belong to another driver",
    note = "give the driver its own options, or use `AnyDriver` to have them checked when the \
            subscription is opened"
)]
pub trait OptionFor<D: ?Sized>: DriverOptions {}

/// A driver chosen at run time takes any options; they are checked when the subscription is opened.
impl<O: DriverOptions> OptionFor<AnyDriver> for O {}

/// The driver's own options of a subscription: typed structs, and arguments by name as they come
/// from configuration files.
#[derive(Clone, Default)]
pub struct DriverArguments {
    typed: Vec<(&'static str, Arc<dyn Any + Send + Sync>)>,
    named: BTreeMap<String, String>,
}

impl DriverArguments {
    /// Adds typed options, replacing those of the same type.
    pub fn insert<O: DriverOptions>(&mut self, options: O) {
        self.typed.retain(|(_, known)| !known.is::<O>());
        self.typed.push((O::DRIVER, Arc::new(options)));
    }

    /// Adds an argument by name, replacing any of the same name.
    pub fn set(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.named.insert(name.into(), value.into());
    }

    /// The typed options `O`, if given.
    #[must_use]
    pub fn get<O: DriverOptions>(&self) -> Option<&O> {
        self.typed
            .iter()
            .find_map(|(_, options)| options.downcast_ref())
    }

    /// The argument under `name`, if given.
    #[must_use]
    pub fn argument(&self, name: &str) -> Option<&str> {
        self.named.get(name).map(String::as_str)
    }

    /// The argument under `name`, parsed.
    ///
    /// # Errors
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) when it does not parse.
    pub fn parse<T: std::str::FromStr<Err: fmt::Display>>(
        &self,
        name: &'static str,
    ) -> Result<Option<T>> {
        self.argument(name)
            .map(|text| {
                text.parse().map_err(|error| {
                    Error::invalid_config(format!("the argument `{name}` is not valid: {error}"))
                        .with("value", text)
                })
            })
            .transpose()
    }

    /// Checks that everything here is for `driver` and under a name it knows. Every driver calls
    /// this first, so that nothing is ignored.
    ///
    /// # Errors
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig), listing what the driver knows.
    pub fn check(&self, driver: &'static str, known: &[&str]) -> Result<()> {
        if let Some((other, _)) = self.typed.iter().find(|(name, _)| *name != driver) {
            return Err(Error::invalid_config(format!(
                "the subscription has options for the driver `{other}`; remove them or use that driver"
            ))
            .driver(driver));
        }
        if let Some(name) = self
            .named
            .keys()
            .find(|name| !known.contains(&name.as_str()))
        {
            let known = if known.is_empty() {
                "it knows none".to_owned()
            } else {
                format!("it knows {}", known.join(", "))
            };
            return Err(Error::invalid_config(format!(
                "unknown argument `{name}` for a subscription; {known}"
            ))
            .driver(driver));
        }
        Ok(())
    }
}

impl fmt::Debug for DriverArguments {
    /// Names only: values may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let typed: Vec<_> = self.typed.iter().map(|(driver, _)| driver).collect();
        f.debug_struct("DriverArguments")
            .field("typed", &typed)
            .field("named", &self.named.keys().collect::<Vec<_>>())
            .finish()
    }
}

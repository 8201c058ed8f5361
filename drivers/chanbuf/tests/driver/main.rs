//! The driver by its public interface, case by case.

mod bounds;
mod common;
mod delayed;
mod groups;
mod leases;
mod lifecycle;
mod model;
mod order;
mod redelivery;
mod settings;
mod start;
mod stress;

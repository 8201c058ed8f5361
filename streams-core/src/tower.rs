//! Bridges to and from `tower_service::Service`.

//! Loaders

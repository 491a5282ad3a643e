//! The postgres layer.

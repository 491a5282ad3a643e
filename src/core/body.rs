//! Record bodies.

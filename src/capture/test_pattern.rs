//! `test://`: a moving pattern.

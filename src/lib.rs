//! segd

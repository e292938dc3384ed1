//! Operators for [tract](https://github.com/sonos/tract) that it lacks or runs slowly: networks of 8 bits
//! ([`int8`]), and depthwise convolutions of 32 bits ([`depthwise`], put in place by [`depthwise_op`]).

pub mod depthwise;
pub mod depthwise_op;
pub mod int8;

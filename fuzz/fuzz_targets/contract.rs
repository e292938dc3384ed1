//! A contract that parses can be written and read again, and gives valid input sizes for any picture.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vision::model::Contract;

fuzz_target!(|input: (&str, u16, u16)| {
    let (text, width, height) = input;
    let Ok(contract) = Contract::parse(text, "fuzz") else { return };
    let again = Contract::parse(&contract.to_toml().expect("a contract can be written"), "again");
    assert_eq!(again.expect("and read again"), contract);
    let size = contract.input.size_for(width.into(), height.into(), None);
    assert!(contract.input.is_valid_side(size.width) && contract.input.is_valid_side(size.height));
});

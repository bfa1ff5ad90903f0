//! Whatever the text, the answer is an inventory or faults, never a panic.

use inventory::Inventory;
use proptest::prelude::*;

proptest! {
    #[test]
    fn any_bytes(text in ".{0,300}") {
        prop_assert!(Inventory::parse(&text).is_err());
    }

    /// One byte of a good inventory changed: still an answer, and faults are never empty.
    #[test]
    fn one_byte_off(at in 0usize..4096, byte in 0x20u8..0x7f) {
        let mut bytes = Inventory::built_in().as_bytes().to_vec();
        let at = at % bytes.len();
        bytes[at] = byte;
        let text = String::from_utf8(bytes).unwrap();
        match Inventory::parse(&text) {
            Ok(inventory) => prop_assert_eq!(Inventory::parse(&inventory.to_json()), Ok(inventory)),
            Err(faults) => prop_assert!(!faults.is_empty()),
        }
    }
}

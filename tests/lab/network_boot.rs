//! Blank machines boot from the network.

#[test]
fn a_network_is_made_and_removed() {
    if let Some(why) = lab::netns::lacking() {
        eprintln!("left out: {why}");
    }
}

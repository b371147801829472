"""Five tasks that lab does not have, as a fork would write them: no file of lab knows them."""

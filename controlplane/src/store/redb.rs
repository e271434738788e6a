//! One file on this machine: redb behind the store's trait.

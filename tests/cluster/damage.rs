crate::harness::cases![];

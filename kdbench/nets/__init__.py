"""Networks in torch, with every size an argument and every shape inferred."""

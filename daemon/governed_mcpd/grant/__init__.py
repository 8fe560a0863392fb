"""The place where an approval becomes a permission that the kernel enforces."""

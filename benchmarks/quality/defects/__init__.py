"""Planted defects on photographs of products: finding and locating them."""

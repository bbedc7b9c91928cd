"""Admission: what is completed and what is refused between authorization and storage.

One plugin a module, named as upstream's; the decisions are pure functions over objects and `chain` runs them in
upstream's order. Whether an object is well-formed is validation's business, not admission's.
"""

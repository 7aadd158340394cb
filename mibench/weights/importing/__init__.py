"""Foreign weights: read without running anything from them, loaded strictly, measured, stored with a card.

``formats`` tells files apart by their first bytes. ``inert`` follows a pickle without calling what it names, within the
limits of ``metered``; ``standins`` are what names stand for, ``claims`` what is left. ``torch_files`` reads what
``torch.save`` wrote, ``containers`` finds the tensors in it; ``reading`` joins them.
``storing`` is the rest of the way: importer, strict loading, card.
"""

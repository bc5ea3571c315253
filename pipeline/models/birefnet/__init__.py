"""BiRefNet: the share of foreground at every pixel of a photo, from a Swin transformer and a deformable decoder."""

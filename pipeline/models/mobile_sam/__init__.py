"""MobileSAM: an image is embedded once; points, boxes and earlier masks then select objects in milliseconds."""

package web

import (
	"fmt"
	"image/color"

	"github.com/boombuler/barcode/qr"
)

// A qrCode is a QR code to be drawn as an SVG of unit squares.
type qrCode struct {
	Size int // modules a side, with the quiet zone
	Dark []qrRun
}

// A qrRun is dark modules beside each other.
type qrRun struct{ X, Y, Width int }

// quietZone is how many light modules stand around the code (ISO/IEC 18004, 9.1).
const quietZone = 4

// newQRCode returns the QR code of a text.
func newQRCode(text string) (qrCode, error) {
	code, err := qr.Encode(text, qr.M, qr.Auto)
	if err != nil {
		return qrCode{}, fmt.Errorf("make a QR code: %w", err)
	}
	side := code.Bounds().Dx()
	c := qrCode{Size: side + 2*quietZone}
	for y := range side {
		for x := 0; x < side; x++ {
			from := x
			for x < side && isDark(code.At(x, y)) {
				x++
			}
			if x > from {
				c.Dark = append(c.Dark, qrRun{from + quietZone, y + quietZone, x - from})
			}
		}
	}
	return c, nil
}

func isDark(c color.Color) bool {
	r, _, _, _ := c.RGBA()
	return r == 0
}

package ca

// ComparedFields returns the fields that ChangesOf looks at.
func ComparedFields() []string {
	var fields []string
	for _, w := range widening {
		fields = append(fields, w.field)
	}
	return fields
}

// RenameNew is how a new file is put in place without links.
var RenameNew = renameNew
